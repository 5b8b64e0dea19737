-- What is known of a caller, from Redis and from a shared cache of a second.
local cjson = require "cjson.safe"
local callers = require "velvetrope.caller"
local redis = require "velvetrope.redis"

local _M = {}
-- Positions are strengths; clear and observe are not enforced.
local STRENGTH = { throttle = 3, challenge = 4, poison = 5, block = 6 }
local MODE = "mode"
-- From these shares of its life on an entry is renewed by one request, while others still use it.
local RENEW_AT = 0.7
local RENEW_MODE_AT = 0.5
local RENEWING_S = 0.25

-- What is known of a caller: {account, org, mode, decisions, passed}, or nil when Redis is away and
-- nothing is remembered. `account` is nil when nothing names one; decisions are those in
-- enforcement, none for whom the allowlist covers.
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
      known.mode = mode
      return known
    end
  end
  local read, err = _M.read(caller, settings, shared)
  if read then
    now = ngx.now()
    shared:set(name, _M.packed(read, now), settings.stale_s)
    shared:set(MODE, string.format("%.3f %s", now, read.mode), settings.stale_s)
    return read
  end
  if known and mode and age < settings.stale_s then
    known.mode = mode
    return known
  end
  return nil, err
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
  if string.sub(rest, 1, 1) == "=" then
    return { account = string.sub(rest, 2), decisions = {} }, age
  end
  return cjson.decode(rest), age
end

function _M.packed(known, now)
  if #known.decisions == 0 and known.account then
    return string.format("%.3f =%s", now, known.account)
  end
  return string.format("%.3f %s", now, cjson.encode({
    account = known.account, org = known.org, decisions = known.decisions, passed = known.passed,
  }))
end

-- Ask Redis: one round trip, two when the key's account is not remembered.
function _M.read(caller, settings, shared)
  local prefix = settings.redis.prefix
  local first = { { "get", prefix .. "mode" } }
  local identity, identity_name
  if caller.key then
    identity_name = "i:" .. caller.key
    identity = shared:get(identity_name)
    if not identity then
      first[2] = { "get", prefix .. "identity:" .. string.sub(caller.key, 8) }
    end
  end
  local mode
  if first[2] then
    local answers, err = redis.run(settings.redis, shared, first)
    if not answers then
      return nil, err
    end
    err = redis.error_of(answers[1]) or redis.error_of(answers[2])
    if err then
      return nil, err
    end
    mode = answers[1]
    identity = answers[2] ~= ngx.null and answers[2] or "{}"
    shared:set(identity_name, identity, settings.identity_s)
  end
  local who = identity and cjson.decode(identity) or {}
  local account = _M.text(who.account) or caller.account or caller.key
    or (caller.ip and "ip:" .. caller.ip)
  local known = { account = account, org = _M.text(who.org), decisions = {} }
  local names, allowed_from = _M.names(known, caller, prefix)
  local commands = {}
  if not mode then
    commands[1] = { "get", prefix .. "mode" }
  end
  if #names > 0 then
    commands[#commands + 1] = { "mget", unpack(names) }
  end
  if #commands > 0 then
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
    mode = mode or answers[1]
    if #names > 0 then
      _M.learn(known, answers[#answers], allowed_from)
    end
  end
  -- Whatever an operator wrote there that is not a mode must not enforce anything.
  known.mode = (mode == "enforce" or mode == "off") and mode or "shadow"
  return known
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
        return
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
  local all = false
  for _, pattern in ipairs(decision.models) do
    all = all or pattern == "*"
  end
  if not all then
    return false
  end
  for _, pattern in ipairs(decision.endpoints) do
    if pattern == "*" or ngx.re.find(path, _M.expression(pattern), "jos") then
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
