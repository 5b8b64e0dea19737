-- What is known of a caller, from Redis and from a shared cache of a second.
local cjson = require "cjson.safe"
local callers = require "velvetrope.caller"
local redis = require "velvetrope.redis"

local _M = {}
-- Positions are strengths; clear and observe are not enforced.
local STRENGTH = { throttle = 3, challenge = 4, poison = 5, block = 6 }
local MODE, POLICY = "mode", "policy"
-- From these shares of its life on an entry is renewed by one request, while others still use it.
local RENEW_AT = 0.7
local RENEW_MODE_AT = 0.5
local RENEWING_S = 0.25

-- What is known of a caller: {account, org, plan, mode, policy, allowed, decisions, passed}, or nil
-- when Redis is away and nothing is remembered. `account` is nil when nothing names one; decisions
-- are those in enforcement; `allowed` is true for whom the allowlist covers.
function _M.of(caller, settings)
  local shared = ngx.shared.velvetrope
  local name = string.format("c:%s\n%s\n%s", caller.key or "", caller.account or "",
    caller.ip or "")
  local now = ngx.now()
  local known, age = _M.remembered(shared, name, now)
  local mode, mode_age = _M.mode_of(shared, now)
  if known and mode and age < settings.cache_s and mode_age < settings.cache_s then
    local renewing
    if mode_age > settings.cache_s * RENEW_MODE_AT then
      renewing = "renewing:mode"
    elseif age > settings.cache_s * RENEW_AT then
      renewing = "renewing:" .. name
    end
    if not renewing or not shared:add(renewing, true, RENEWING_S) then
      known.mode, known.policy = mode, _M.policy(shared)
      return known
    end
  end
  local read, err = _M.read(caller, settings, shared)
  if read then
    now = ngx.now()
    shared:set(name, _M.packed(read, now), _M.keep_s(read, settings, now))
    shared:set(MODE, string.format("%.3f %s", now, read.mode))
    return read
  end
  if not known or not mode then
    return nil, err
  end
  known.mode, known.policy = mode, _M.policy(shared)
  if age >= settings.stale_s then
    -- What fails closed goes on, by what was known last, until it expires.
    known.decisions = _M.closed(known, now)
    if mode ~= "enforce" or known.allowed or #known.decisions == 0 then
      return nil, err
    end
    known.policy = { limits = {}, closed = known.policy.closed }
  end
  return known
end

-- Decisions whose action fails closed.
function _M.closed(known, now)
  local kept = {}
  for _, decision in ipairs(known.decisions) do
    if known.policy.closed[decision.action] and decision.expires_at > now then
      kept[#kept + 1] = decision
    end
  end
  return kept
end

-- For how long to remember what was read: what fails closed outlives stale_s.
function _M.keep_s(known, settings, now)
  local seconds = settings.stale_s
  for _, decision in ipairs(_M.closed(known, now)) do
    seconds = math.max(seconds, decision.expires_at - now)
  end
  return seconds
end

local NO_POLICY = { limits = {}, closed = {} }
local policy_text, policy = nil, NO_POLICY

-- The static limits as last read (responders/limits.py): {limits, closed}.
function _M.policy(shared)
  local text = shared:get(POLICY)
  if text ~= policy_text then
    policy_text, policy = text, NO_POLICY
    local read = text and text ~= "" and cjson.decode(text)
    if type(read) == "table" and read.format == 1 then
      local closed = {}
      for _, action in ipairs(type(read.fail_closed) == "table" and read.fail_closed or {}) do
        closed[action] = true
      end
      policy = { limits = type(read.limits) == "table" and read.limits or {}, closed = closed }
    elseif text and text ~= "" then
      ngx.log(ngx.ERR, "velvetrope: what is kept as static limits is none")
    end
  end
  return policy
end

-- The mode as last read, and its age.
function _M.mode_of(shared, now)
  local text = shared:get(MODE)
  if not text then
    return nil
  end
  local at, mode = string.match(text, "^(%S+) (.*)$")
  return mode, now - tonumber(at)
end

function _M.remembered(shared, name, now)
  local text = shared:get(name)
  if not text then
    return nil
  end
  local at, rest = string.match(text, "^(%S+) (.*)$")
  local age = now - tonumber(at)
  -- Nearly everybody: an account with no decision, without JSON.
  local plan, account = string.match(rest, "^=(%Z*)%z(.*)$")
  if account then
    return { account = account, plan = plan ~= "" and plan or nil, decisions = {} }, age
  end
  return cjson.decode(rest), age
end

function _M.packed(known, now)
  local head = string.format("%.3f ", now)
  if #known.decisions == 0 and known.account and not known.allowed then
    return head .. "=" .. (known.plan or "") .. "\0" .. known.account
  end
  return head .. cjson.encode({
    account = known.account, org = known.org, plan = known.plan, allowed = known.allowed,
    decisions = known.decisions, passed = known.passed,
  })
end

-- Ask Redis: one round trip, two when the key's account is not remembered.
function _M.read(caller, settings, shared)
  local prefix = settings.redis.prefix
  local commands = { { "mget", prefix .. "mode", prefix .. "policy" } }
  local identity, identity_name, state, err
  if caller.key then
    identity_name = "i:" .. caller.key
    identity = shared:get(identity_name)
    if not identity then
      commands[2] = { "get", prefix .. "identity:" .. string.sub(caller.key, 8) }
      local answers
      answers, err = _M.ask(settings, shared, commands)
      if not answers then
        return nil, err
      end
      state = answers[1]
      identity = answers[2] ~= ngx.null and answers[2] or "{}"
      shared:set(identity_name, identity, settings.identity_s)
      commands = {}
    end
  end
  local who = identity and cjson.decode(identity)
  who = type(who) == "table" and who or {}
  local account = _M.text(who.account) or caller.account or caller.key
    or (caller.ip and "ip:" .. caller.ip)
  local known = {
    account = account, org = _M.text(who.org), plan = _M.text(who.plan), decisions = {},
  }
  local names, allowed_from = _M.names(known, caller, prefix)
  if #names > 0 then
    commands[#commands + 1] = { "mget", unpack(names) }
  end
  if #commands > 0 then
    local answers
    answers, err = _M.ask(settings, shared, commands)
    if not answers then
      return nil, err
    end
    state = state or answers[1]
    if #names > 0 then
      _M.learn(known, answers[#answers], allowed_from)
    end
  end
  -- Whatever an operator wrote there that is not a mode must not enforce anything.
  local mode, text = state[1], state[2]
  known.mode = (mode == "enforce" or mode == "off") and mode or "shadow"
  shared:set(POLICY, text ~= ngx.null and text or "")
  known.policy = _M.policy(shared)
  return known
end

-- Answers of a pipeline, or nil and the first error in it.
function _M.ask(settings, shared, commands)
  local answers, err = redis.run(settings.redis, shared, commands)
  if not answers then
    return nil, err
  end
  for _, answer in ipairs(answers) do
    err = redis.error_of(answer)
    if err then
      return nil, err
    end
  end
  return answers
end

-- The keys to read, decisions first; then from which one on they are of the allowlist. The last is
-- the challenge that the account has passed.
function _M.names(known, caller, prefix)
  local of = { { "account", known.account }, { "api_key", caller.key }, { "org", known.org },
    { "ip", caller.ip } }
  local names = {}
  local networks = caller.ip and callers.networks(caller.ip) or {}
  local allowed_from
  for _, kind in ipairs({ "decision:", "allow:" }) do
    if kind == "allow:" then
      allowed_from = #names + 1
    end
    for _, pair in ipairs(of) do
      if pair[2] then
        names[#names + 1] = prefix .. kind .. pair[1] .. ":" .. pair[2]
      end
    end
    for _, network in ipairs(networks) do
      names[#names + 1] = prefix .. kind .. "cidr:" .. network
    end
  end
  if known.account then
    names[#names + 1] = prefix .. "challenge:passed:" .. known.account
  end
  return names, allowed_from
end

function _M.learn(known, texts, allowed_from)
  local last = known.account and #texts - 1 or #texts
  local now = ngx.now()
  for i = allowed_from, last do
    local entry = texts[i] ~= ngx.null and cjson.decode(texts[i])
    if type(entry) == "table" then
      local ends = tonumber(entry.expires_at)
      if not ends or ends > now then
        known.allowed = true
      end
    end
  end
  for i = 1, allowed_from - 1 do
    local decision = texts[i] ~= ngx.null and cjson.decode(texts[i])
    if type(decision) == "table" and decision.mode == "enforce" and STRENGTH[decision.action] then
      local applies = type(decision.applies_to) == "table" and decision.applies_to or {}
      known.decisions[#known.decisions + 1] = {
        id = decision.id,
        scope = decision.scope,
        value = decision.value,
        campaign = _M.text(decision.campaign),
        action = decision.action,
        level = tonumber(decision.level) or 0,
        version = tonumber(decision.version) or 0,
        expires_at = tonumber(decision.expires_at) or 0,
        params = type(decision.params) == "table" and decision.params or {},
        endpoints = type(applies.endpoints) == "table" and applies.endpoints or { "*" },
        models = type(applies.models) == "table" and applies.models or { "*" },
      }
    end
  end
  if known.account and texts[#texts] ~= ngx.null then
    local passed = cjson.decode(texts[#texts])
    known.passed = type(passed) == "table" and passed or nil
  end
end

-- The strongest decision that is in force and covers a path, or nil.
function _M.strongest(known, path, now)
  local best
  for _, decision in ipairs(known.decisions) do
    if decision.expires_at > now and _M.covers(decision, path)
      and (not best or _M.is_stronger(decision, best)) then
      best = decision
    end
  end
  return best
end

function _M.is_stronger(one, other)
  local a, b = STRENGTH[one.action], STRENGTH[other.action]
  if a ~= b then
    return a > b
  end
  if one.level ~= other.level then
    return one.level > other.level
  end
  return one.version > other.version
end

-- The model's name is in the body, which is not read here: a decision for one model does not hold.
function _M.covers(decision, path)
  return _M.matches(decision.models, nil) and _M.matches(decision.endpoints, path)
end

-- Whether a value is one of these glob patterns; one that is not known (nil) only `*` covers.
function _M.matches(patterns, value)
  for _, pattern in ipairs(patterns) do
    if pattern == "*" or value and ngx.re.find(value, _M.expression(pattern), "jos") then
      return true
    end
  end
  return false
end

local expressions = {}
local remembered_expressions = 0

-- The regular expression of a glob, as Python's fnmatch reads it: *, ?, [seq] and [!seq].
function _M.expression(pattern)
  local known = expressions[pattern]
  if known then
    return known
  end
  local parts, i = { "\\A" }, 1
  while i <= #pattern do
    local char = string.sub(pattern, i, i)
    local set = char == "[" and string.match(pattern, "^%[(!?%]?[^%]]*)%]", i)
    if char == "*" then
      parts[#parts + 1] = ".*"
    elseif char == "?" then
      parts[#parts + 1] = "."
    elseif set then
      i = i + #set + 1
      local body = string.gsub(set, "[%[%]\\^]", "\\%0")
      parts[#parts + 1] = "[" .. string.gsub(body, "^!", "^") .. "]"
    else
      parts[#parts + 1] = string.gsub(char, "[^%w]", "\\%0")
    end
    i = i + 1
  end
  parts[#parts + 1] = "\\z"
  known = table.concat(parts)
  -- Patterns are the operator's and few: this only bounds a mistake.
  if remembered_expressions > 1000 then
    expressions, remembered_expressions = {}, 0
  end
  expressions[pattern] = known
  remembered_expressions = remembered_expressions + 1
  return known
end

-- A string, or nil for anything else (cjson's null is neither).
function _M.text(value)
  return type(value) == "string" and value ~= "" and value or nil
end

return _M
