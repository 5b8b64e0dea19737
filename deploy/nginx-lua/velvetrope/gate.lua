-- One request: who calls, what is in force, and what becomes of it. No verdict service is asked.
local callers = require "velvetrope.caller"
local challenge = require "velvetrope.challenge"
local body = require "velvetrope.body"
local cjson = require "cjson.safe"
local keys = require "velvetrope.keys"
local limits = require "velvetrope.limits"
local redis = require "velvetrope.redis"
local sketch = require "velvetrope.sketch"
local view = require "velvetrope.view"

local _M = {}
local settings, sketcher

local PROBLEM = "application/problem+json"
local TYPES = "https://iana.org/assignments/http-problem-types#"
local BAD_REQUEST = '{"type":"about:blank","title":"Bad Request","status":400,'
  .. '"detail":"There is more than one Authorization field."}'
local AWAY = '{"type":"about:blank","title":"Service Unavailable","status":503}'
local BLOCKED = '{"type":"' .. TYPES .. 'abnormal-usage-detected",'
  .. '"title":"Request not satisfied due to detection of abnormal request pattern",'
  .. '"status":403,"violated-policies":["requests"]}'
local OVER_QUOTA = '{"type":"' .. TYPES .. 'quota-exceeded",'
  .. '"title":"Request cannot be satisfied as assigned quota has been exceeded",'
  .. '"status":429,"violated-policies":%s}'

local function read_file(file)
  local handle, err = io.open(file, "rb")
  if not handle then
    error("velvetrope: " .. err)
  end
  local text = handle:read("*a")
  handle:close()
  return text
end

-- In init_by_lua: reads settings and files. Raises an error, on which nginx does not start.
function _M.init(folder)
  local given = require "velvetrope.settings"
  if given.when_away ~= "open" and given.when_away ~= "closed" then
    error('velvetrope: settings.lua: when_away is "open" or "closed"')
  end
  local of_redis = given.redis
  if of_redis.password_file then
    of_redis.password = string.match(read_file(of_redis.password_file), "^(.-)%s*$")
  end
  -- Connections in a pool are already somebody's, and of one database.
  of_redis.pool = table.concat({ of_redis.host, of_redis.port or "", of_redis.username or "",
    of_redis.database }, "\n")
  given.gcra = read_file(folder .. "/gcra.lua")
  given.gcra_sha1 = string.gsub(ngx.sha1_bin(given.gcra), ".", function(c)
    return string.format("%02x", string.byte(c))
  end)
  if given.keys_file then
    given.key = keys.newest(read_file(given.keys_file), given.keys_file)
  end
  if given.log_input ~= "plain" and given.log_input ~= "sketch" and given.log_input ~= "none" then
    error('velvetrope: settings.lua: log_input is "plain", "sketch" or "none"')
  end
  if given.log_input == "sketch" then
    if not given.key then
      error("velvetrope: settings.lua: log_input = \"sketch\" needs keys_file")
    end
    local words = cjson.decode(read_file(folder .. "/words.json"))
    sketcher = sketch.new(keys.derive(given.key, "sketch"), words)
  end
  settings = given
end

local function refuse(status, document, fields)
  ngx.status = status
  ngx.header["Content-Type"] = PROBLEM
  ngx.header["Cache-Control"] = "no-store"
  for name, value in pairs(fields or {}) do
    ngx.header[name] = value
  end
  ngx.print(document)
  return ngx.exit(status)
end

-- Take off what only velvetrope may say, whatever the client calls it, before anything is decided.
local function forget_forged(headers)
  for name in pairs(headers) do
    if ngx.re.find(name, "^(?:x[-_]velvetrope[-_]|x[-_]account$|challenge[-_]answer$)", "joi") then
      ngx.req.clear_header(name)
    end
  end
end

local function away()
  if settings.when_away == "closed" then
    return refuse(503, AWAY)
  end
end

-- Charge one request; refuses it when there is no room, or as when Redis is away.
local function throttle(wanted, account)
  local taken, err = limits.take(settings, ngx.shared.velvetrope, wanted)
  if not taken then
    ngx.log(ngx.WARN, "velvetrope: the limiter does not answer: ", err)
    return away()
  end
  if taken.allowed then
    return
  end
  local policies, states = limits.fields(wanted, taken)
  local violated = {}
  for i, limit in ipairs(wanted) do
    if not taken.left[i].conforms then
      violated[#violated + 1] = limit.name
    end
  end
  return refuse(429, string.format(OVER_QUOTA, cjson.encode(violated)), {
    ["Retry-After"] = limits.retry_after(settings, wanted, taken, account, ngx.now()),
    ["RateLimit-Policy"] = policies,
    ["RateLimit"] = states,
  })
end

local function challenged(decision, known, account)
  local passed = known.passed
  if not challenge.lifts(passed, decision, ngx.now()) and account ~= "" then
    -- It may have passed since: nobody should have to wait for a cache.
    local answers = redis.run(settings.redis, ngx.shared.velvetrope, {
      { "get", settings.redis.prefix .. "challenge:passed:" .. account },
    })
    local text = answers and answers[1]
    passed = type(text) == "string" and cjson.decode(text) or nil
  end
  if challenge.lifts(passed, decision, ngx.now()) then
    -- Who passed goes on at a rate of its own: work can be bought.
    local bucket = decision.campaign and "campaign:" .. decision.campaign
      or decision.scope .. ":" .. decision.value
    return throttle({ { name = "requests", bucket = "passed:" .. bucket, window = 60,
      quota = settings.passed_rate_per_min, burst = settings.passed_burst, unit = "requests" } },
      account)
  end
  return refuse(401, challenge.document(settings, decision, account), {
    ["WWW-Authenticate"] = 'Bearer error="insufficient_user_authentication"',
  })
end

-- In access_by_lua: lets the request through, telling the model's server, or answers it.
function _M.access()
  local var = ngx.var
  local headers = ngx.req.get_headers(0)
  local caller = callers.read(headers, settings)
  forget_forged(headers)
  if not caller then
    return refuse(400, BAD_REQUEST)
  end
  if settings.log_input == "plain" then
    var.velvetrope_log_body = "1"
  end
  var.velvetrope_api_key = caller.key or ""
  var.velvetrope_caller = caller.account and callers.header_value(caller.account) or ""
  if caller.account then
    ngx.req.set_header(settings.caller_header, caller.account)
  end
  local known = view.of(caller, settings)
  if not known then
    return away()
  end
  local account = known.account or ""
  local decision
  if known.mode == "enforce" then
    decision = view.strongest(known, var.uri, ngx.now())
  end
  local action = decision and decision.action or "allow"
  local level = decision and tostring(decision.level) or "0"
  local named = callers.header_value(account)
  var.velvetrope_account = named
  var.velvetrope_action = action
  var.velvetrope_level = level
  if decision then
    if action == "block" then
      return refuse(403, BLOCKED)
    elseif action == "challenge" then
      challenged(decision, known, account)
    else
      local wanted = limits.of(decision.params)
      if #wanted > 0 then
        throttle(wanted, account)
      end
    end
  end
  ngx.req.set_header("X-Velvetrope-Action", action)
  ngx.req.set_header("X-Velvetrope-Level", level)
  ngx.req.set_header("X-Velvetrope-Account", named)
end

-- In log_by_lua, when the client has its answer: what the log says of the request's input. Unless
-- this says so, the body is not in the log.
function _M.log()
  if not sketcher or ngx.var.velvetrope_action == "" then
    return
  end
  local text = ngx.req.get_body_data()
  if not text then
    return
  end
  local asked = body.read(text)
  local var = ngx.var
  if asked.vectors then
    var.velvetrope_log_body = "1"
    return
  end
  if asked.text then
    var.velvetrope_sketch = sketcher(asked.text)
  end
  var.velvetrope_model = asked.model or ""
  var.velvetrope_params = asked.params and cjson.encode(asked.params) or ""
end

return _M
