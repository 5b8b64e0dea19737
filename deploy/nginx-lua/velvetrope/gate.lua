-- One request: who calls, what is in force, and what becomes of it. No verdict service is asked.
local callers = require "velvetrope.caller"
local challenge = require "velvetrope.challenge"
local body = require "velvetrope.body"
local cjson = require "cjson.safe"
local keys = require "velvetrope.keys"
local limits = require "velvetrope.limits"
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

-- Charge one request to limits; refuses it when one has no room. A limiter that does not answer
-- lets it through, unless `action` fails closed.
local function charge(wanted, known, action)
  if #wanted == 0 then
    return
  end
  local account = known.account or ""
  local taken, err = limits.take(settings, ngx.shared.velvetrope, wanted)
  if not taken then
    ngx.log(ngx.WARN, "velvetrope: the limiter does not answer: ", err)
    if not known.policy.closed[action] then
      return
    end
    taken = limits.none_left(wanted)
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
  if ngx.var.velvetrope_action == "allow" then
    ngx.var.velvetrope_action = "throttle"
  end
  return refuse(429, string.format(OVER_QUOTA, cjson.encode(violated)), {
    ["Retry-After"] = limits.retry_after(settings, wanted, taken, account, ngx.now()),
    ["RateLimit-Policy"] = policies,
    ["RateLimit"] = states,
  })
end

-- Whether an account has passed what a decision asks.
local function has_passed(decision, known)
  if challenge.lifts(known.passed, decision, ngx.now()) then
    return true
  end
  if not known.account then
    return false
  end
  -- It may have passed since: nobody should have to wait for a cache.
  local answers = view.ask(settings, ngx.shared.velvetrope, {
    { "get", settings.redis.prefix .. "challenge:passed:" .. known.account },
  })
  if not answers then
    return not known.policy.closed.challenge
  end
  local passed = type(answers[1]) == "string" and cjson.decode(answers[1])
  return challenge.lifts(type(passed) == "table" and passed or nil, decision, ngx.now())
end

-- What a decision asks of a request before it may go on, as limits.
local function asked_by(decision, known)
  if decision.action ~= "challenge" then
    return limits.of(decision.params)
  end
  if not has_passed(decision, known) then
    return refuse(401, challenge.document(settings, decision, known.account or ""), {
      ["WWW-Authenticate"] = 'Bearer error="insufficient_user_authentication"',
    })
  end
  -- Who passed goes on at a rate of its own: work can be bought.
  local bucket = decision.campaign and "campaign:" .. decision.campaign
    or decision.scope .. ":" .. decision.value
  return { { name = "requests", bucket = "passed:" .. bucket, window = 60, unit = "requests",
    quota = settings.passed_rate_per_min, burst = settings.passed_burst } }
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
  local enforced = known.mode == "enforce" and not known.allowed
  local decision = enforced and view.strongest(known, var.uri, ngx.now())
  local action = decision and decision.action or "allow"
  local level = decision and tostring(decision.level) or "0"
  local named = callers.header_value(known.account or "")
  var.velvetrope_account = named
  var.velvetrope_action = action
  var.velvetrope_level = level
  if action == "block" then
    return refuse(403, BLOCKED)
  end
  if enforced then
    local wanted = decision and asked_by(decision, known) or {}
    if known.account then
      for _, limit in ipairs(limits.static(known.policy, known.account, known.plan, var.uri)) do
        wanted[#wanted + 1] = limit
      end
    end
    charge(wanted, known, decision and action or "throttle")
  end
  ngx.req.set_header("X-Velvetrope-Action", action)
  ngx.req.set_header("X-Velvetrope-Level", level)
  ngx.req.set_header("X-Velvetrope-Account", named)
end

-- In log_by_lua, when the client has its answer: what the log says of the request's input. Unless
-- this says so, the body is not in the log.
function _M.log()
  local text = sketcher and ngx.req.get_body_data()
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
