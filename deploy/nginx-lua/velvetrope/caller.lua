-- Who calls: from the request's headers, by the rules of the verdict API.
local bit = require "bit"
local digest = require "velvetrope.digest"

local _M = {}
local MAX_BYTES = 256

-- A caller {key, account, ip}: `sha256:<hex>` of the key, the account that a trusted header names,
-- the client's address; each or nil. Or nil when there are two keys: we might go by one and the
-- model's server by the other.
function _M.read(headers, settings)
  local authorization = headers["authorization"]
  if type(authorization) == "table" then
    return nil
  end
  local caller = { key = _M.key(authorization) }
  if settings.caller_header then
    local named = headers[settings.caller_header]
    if type(named) == "table" then
      named = named[#named]
    end
    if named and #named >= 1 and #named <= MAX_BYTES then
      caller.account = named
    end
  end
  if settings.by_address then
    -- ::ffff:192.0.2.1 is what nginx says where it listens for both kinds in one socket.
    caller.ip = string.gsub(ngx.var.remote_addr, "^::ffff:(%d+%.%d+%.%d+%.%d+)$", "%1")
  end
  return caller
end

-- `sha256:` and the hex of the key, without `Bearer `; nil when there is no key.
function _M.key(authorization)
  if not authorization then
    return nil
  end
  local key = string.match(authorization, "^%s*(.-)%s*$")
  local scheme, rest = string.match(key, "^(%S+)%s*(.*)$")
  if scheme and string.lower(scheme) == "bearer" then
    key = rest
  end
  if key == "" then
    return nil
  end
  return "sha256:" .. digest.sha256_hex(key)
end

-- A value that may stand in a header field: control characters percent-encoded.
function _M.header_value(text)
  return (string.gsub(text, "[%z\1-\31\127]", function(c)
    return string.format("%%%02X", string.byte(c))
  end))
end

-- Every network that contains an address, narrowest first, as Python's ipaddress writes them.
function _M.networks(address)
  local words = _M.words(address)
  if not words then
    return {}
  end
  local width = #words == 2 and 32 or 128
  local found = {}
  for prefix = width, 0, -1 do
    found[#found + 1] = _M.text(words, prefix) .. "/" .. prefix
  end
  return found
end

-- The 16-bit words of an address, 2 or 8 of them; nil when it is none.
function _M.words(address)
  local a, b, c, d = string.match(address, "^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
  if a then
    return { a * 256 + b, c * 256 + d }
  end
  if not string.find(address, ":", 1, true) then
    return nil
  end
  -- ::ffff:192.0.2.1
  local head, v4 = string.match(address, "^(.*:)(%d+%.%d+%.%d+%.%d+)$")
  if head then
    local last = _M.words(v4)
    address = string.format("%s%x:%x", head, last[1], last[2])
  end
  local function split(text)
    local words = {}
    for word in string.gmatch(text, "%x+") do
      words[#words + 1] = tonumber(word, 16)
    end
    return words
  end
  local before, after = string.match(address, "^(.-)::(.*)$")
  if not before then
    local words = split(address)
    return #words == 8 and words or nil
  end
  local left, right = split(before), split(after)
  local words = left
  for _ = 1, 8 - #left - #right do
    words[#words + 1] = 0
  end
  for _, word in ipairs(right) do
    words[#words + 1] = word
  end
  return #words == 8 and words or nil
end

-- An address of these words, with everything past `prefix` bits zero.
function _M.text(words, prefix)
  local kept = {}
  for i, word in ipairs(words) do
    local bits = math.max(0, math.min(16, prefix - (i - 1) * 16))
    kept[i] = bit.band(word, bit.lshift(0xffff, 16 - bits), 0xffff)
  end
  if #kept == 2 then
    return string.format("%d.%d.%d.%d", bit.rshift(kept[1], 8), bit.band(kept[1], 255),
      bit.rshift(kept[2], 8), bit.band(kept[2], 255))
  end
  -- RFC 5952: the first of the longest runs of two zeros or more is `::`.
  local best, best_length, run = 0, 1, 0
  for i = 1, 8 do
    run = kept[i] == 0 and run + 1 or 0
    if run > best_length then
      best, best_length = i - run + 1, run
    end
  end
  local function join(first, last)
    local parts = {}
    for i = first, last do
      parts[#parts + 1] = string.format("%x", kept[i])
    end
    return table.concat(parts, ":")
  end
  if best == 0 then
    return join(1, 8)
  end
  return join(1, best - 1) .. "::" .. join(best + best_length, 8)
end

return _M
