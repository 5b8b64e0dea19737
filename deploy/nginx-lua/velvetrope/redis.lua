-- Pipelines to Redis. A failure is remembered for half a second, so that a Redis that is away does
-- not cost every request a timeout.
local client = require "nginx.redis"

local _M = {}
local AWAY = "away"
local AWAY_S = 0.5
local IDLE_MS = 60000

-- Run commands, each a list of words; `shared` is the shared dictionary.
-- Returns their answers (an error of one of them is {false, message}), or nil and why.
function _M.run(settings, shared, commands)
  if shared:get(AWAY) then
    return nil, "away a moment ago"
  end
  local answers, err, reused = _M.attempt(settings, commands)
  if not answers and reused and err ~= "timeout" then
    -- The server had closed an idle connection: that says nothing of it now.
    answers, err = _M.attempt(settings, commands)
  end
  if not answers then
    shared:set(AWAY, true, AWAY_S)
    ngx.log(ngx.WARN, "velvetrope: Redis is away: ", err)
    return nil, err
  end
  return answers
end

-- Answers, or nil, why, and whether it was over a connection that had been idle.
function _M.attempt(settings, commands)
  local redis = client:new()
  redis:set_timeout(settings.connect_timeout_ms)
  local pool = { pool = settings.pool }
  local ok, err
  if string.sub(settings.host, 1, 5) == "unix:" then
    ok, err = redis:connect(settings.host, pool)
  else
    ok, err = redis:connect(settings.host, settings.port, pool)
  end
  if not ok then
    return nil, err, false
  end
  redis:set_timeout(settings.answer_timeout_ms)
  local reused = (redis:get_reused_times() or 0) > 0
  local before = 0
  redis:init_pipeline(#commands + 2)
  if not reused then
    if settings.password then
      before = before + 1
      if settings.username then
        redis:auth(settings.username, settings.password)
      else
        redis:auth(settings.password)
      end
    end
    if settings.database ~= 0 then
      before = before + 1
      redis:select(settings.database)
    end
  end
  for _, command in ipairs(commands) do
    redis[command[1]](redis, unpack(command, 2))
  end
  local answers
  answers, err = redis:commit_pipeline()
  if not answers then
    redis:close()
    return nil, err, reused
  end
  for i = 1, before do
    if type(answers[i]) == "table" and answers[i][1] == false then
      redis:close()
      return nil, answers[i][2], false
    end
  end
  redis:set_keepalive(IDLE_MS, settings.pool_size)
  if before > 0 then
    answers = { unpack(answers, before + 1, before + #commands) }
  end
  return answers
end

-- The error of an answer, or nil.
function _M.error_of(answer)
  if type(answer) == "table" and answer[1] == false then
    return answer[2]
  end
end

return _M
