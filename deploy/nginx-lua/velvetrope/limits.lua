-- Rates: the one GCRA script (gcra.lua) in Redis, which every gateway runs, and what a refused
-- client is told of it.
local bit = require "bit"
local digest = require "velvetrope.digest"
local redis = require "velvetrope.redis"
local view = require "velvetrope.view"

local _M = {}
local SPANS = { 60, 3600, 86400 }
local JITTER_MOST_S = 600
local AWAY_S = 5
local ANY = { "*" }

local function number(value)
  return string.format("%.17g", value)
end

-- The limits that a decision's params, or a static limit, ask for: {name, bucket, quota, window,
-- burst, unit} each. `name` goes before the policies' own names.
function _M.of(params, name)
  local before = name and name .. "-" or ""
  local bucket = tostring(params.bucket or "")
  local limits = {}
  for _, kind in ipairs({ "rate_per_min", "tokens_per_min", "requests_per_day", "tokens_per_day" }) do
    local quota = tonumber(params[kind])
    if quota and quota > 0 then
      local unit = string.sub(kind, 1, 6) == "tokens" and "tokens" or "requests"
      if string.sub(kind, -4) == "_day" then
        local own = unit .. "-day"
        limits[#limits + 1] = { name = before .. own, bucket = bucket .. ":" .. own, quota = quota,
          window = 86400, burst = 0, unit = unit }
      else
        local burst = tonumber(params[unit == "requests" and "burst" or "tokens_burst"]) or 1
        limits[#limits + 1] = { name = before .. unit, bucket = unit == "requests" and bucket
          or bucket .. ":" .. unit, quota = quota, window = 60, burst = burst, unit = unit }
      end
    end
  end
  return limits
end

-- The static limits that hold for a request of an account, as responders/limits.py picks them: of
-- one name the first that matches. The model is not known here.
function _M.static(policy, account, plan, path)
  local found, named = {}, {}
  for _, limit in ipairs(policy.limits) do
    local name = limit.name
    if type(name) == "string" and not named[name] and view.matches(limit.plans or ANY, plan)
      and view.matches(limit.endpoints or ANY, path) and view.matches(limit.models or ANY, nil) then
      named[name] = true
      local params = { bucket = "static:" .. name .. ":account:" .. account }
      for key, value in pairs(limit) do
        params[key] = params[key] or value
      end
      for _, one in ipairs(_M.of(params, name)) do
        found[#found + 1] = one
      end
    end
  end
  return found
end

-- What is taken to be so when the limiter does not answer, of limits that fail closed.
function _M.none_left(limits)
  local taken = { allowed = false, wait = AWAY_S, left = {} }
  for i = 1, #limits do
    taken.left[i] = { conforms = false, remaining = 0, reset = AWAY_S }
  end
  return taken
end

-- Charge one request to all limits, or to none. Tokens are not known here and cost nothing.
-- Returns {allowed, wait, left = {{conforms, remaining, reset}, ...}}, or nil and why.
function _M.take(settings, shared, limits)
  local words = { #limits }
  for i, limit in ipairs(limits) do
    words[i + 1] = settings.redis.prefix .. "limit:" .. limit.bucket
  end
  local arguments = { "take", "", "" }
  for _, limit in ipairs(limits) do
    arguments[#arguments + 1] = limit.unit == "requests" and "1" or "0"
    arguments[#arguments + 1] = number(limit.quota)
    arguments[#arguments + 1] = number(limit.window)
    arguments[#arguments + 1] = number(limit.burst)
  end
  for _, argument in ipairs(arguments) do
    words[#words + 1] = argument
  end
  local answers, err = redis.run(settings.redis, shared,
    { { "evalsha", settings.gcra_sha1, unpack(words) } })
  err = err or redis.error_of(answers[1])
  if err and string.sub(err, 1, 8) == "NOSCRIPT" then
    answers, err = redis.run(settings.redis, shared, { { "eval", settings.gcra, unpack(words) } })
    err = err or redis.error_of(answers[1])
  end
  if err then
    return nil, err
  end
  local answer = answers[1]
  local taken = { allowed = answer[1] == 1, wait = 0, left = {} }
  for i = 1, #limits do
    local at = 2 + (i - 1) * 4
    taken.left[i] = { conforms = answer[at + 1] == 1, remaining = answer[at + 2],
      reset = tonumber(answer[at + 4]) }
    taken.wait = math.max(taken.wait, tonumber(answer[at + 3]))
  end
  return taken
end

-- RateLimit-Policy and RateLimit, an item for each limit.
function _M.fields(limits, taken)
  local policies, states = {}, {}
  for i, limit in ipairs(limits) do
    local quota, span = _M.whole(limit)
    local unit = limit.unit == "requests" and "" or ';qu="' .. limit.unit .. '"'
    policies[i] = string.format('"%s";q=%d;w=%d%s', limit.name, quota, span, unit)
    states[i] = string.format('"%s";r=%s;t=%d', limit.name, taken.left[i].remaining,
      math.ceil(taken.left[i].reset))
  end
  return table.concat(policies, ", "), table.concat(states, ", ")
end

-- A quota in whole units of the shortest span in which it is whole.
function _M.whole(limit)
  if limit.burst == 0 then
    return math.max(1, math.floor(limit.quota)), limit.window
  end
  local quota, span
  for _, one in ipairs(SPANS) do
    span = one
    quota = limit.quota * span / limit.window
    if quota >= 1 and quota == math.floor(quota) then
      break
    end
  end
  return math.max(1, math.floor(quota)), span
end

-- Whole seconds for Retry-After: the wait, and up to half of it (2 s to 10 min) of jitter, the same
-- for the same bucket, second and caller.
function _M.retry_after(settings, limits, taken, account, now)
  local bucket = ""
  for i, limit in ipairs(limits) do
    if not taken.left[i].conforms then
      bucket = limit.bucket
      break
    end
  end
  local wait = math.max(1, math.ceil(taken.wait))
  local window = math.floor(now + taken.wait)
  local text = string.format("%s\31%d\31%s", bucket, window, account)
  local hashed = digest.hmac_sha256(settings.jitter_key, text)
  local share = 0
  for i = 8, 1, -1 do
    share = (share + string.byte(hashed, i)) / 256
  end
  local most = math.min(JITTER_MOST_S, math.max(2, bit.rshift(wait, 1)))
  return wait + math.floor(share * (most + 1))
end

return _M
