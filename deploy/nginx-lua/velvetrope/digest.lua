-- SHA-256 and HMAC-SHA256 of the OpenSSL that nginx itself is linked with.
local ffi = require "ffi"

-- Another module may have declared the same.
pcall(ffi.cdef, [[
unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md);
]])
pcall(ffi.cdef, [[
const void *EVP_sha256(void);
unsigned char *HMAC(const void *md, const void *key, int key_len,
                    const unsigned char *d, size_t n, unsigned char *out, unsigned int *out_len);
]])

local _M = {}
local out = ffi.new("unsigned char[32]")
local hex = {}
for byte = 0, 255 do
  hex[byte] = string.format("%02x", byte)
end

-- 32 bytes.
function _M.sha256(text)
  ffi.C.SHA256(text, #text, out)
  return ffi.string(out, 32)
end

-- The lower-case hex of SHA-256.
function _M.sha256_hex(text)
  ffi.C.SHA256(text, #text, out)
  local parts = {}
  for i = 0, 31 do
    parts[i + 1] = hex[out[i]]
  end
  return table.concat(parts)
end

-- 32 bytes.
function _M.hmac_sha256(key, text)
  ffi.C.HMAC(ffi.C.EVP_sha256(), key, #key, text, #text, out, nil)
  return ffi.string(out, 32)
end

return _M
