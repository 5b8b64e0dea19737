-- The keyring that `velvetrope keys new` writes, and what is derived of its keys.
local cjson = require "cjson.safe"
local digest = require "velvetrope.digest"

local _M = {}

-- The newest key of a keyring's text: {id, secret}. Raises an error that says what is wrong.
function _M.newest(text, file)
  local ring = cjson.decode(text)
  local first = type(ring) == "table" and type(ring.keys) == "table" and ring.keys[1]
  local secret = type(first) == "table" and type(first.secret) == "string"
    and ngx.decode_base64(first.secret)
  if not secret or #secret ~= 32 or type(first.id) ~= "string" then
    error("velvetrope: " .. file .. ": not a keyring (velvetrope keys new)")
  end
  return { id = first.id, secret = secret }
end

-- 32 bytes for one purpose, as velvetrope_client.keys derives them.
function _M.derive(key, purpose)
  local framed = "\0\0\0\0\0\0\0" .. string.char(#purpose) .. purpose
  return digest.hmac_sha256(key.secret, framed)
end

return _M
