-- SHA-256 and HMAC-SHA256 of the OpenSSL that nginx itself is linked with.
local bit = require "bit"
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
-- SHA256_CTX has 112 bytes.
pcall(ffi.cdef, [[
int SHA256_Init(void *context);
int SHA256_Update(void *context, const void *data, size_t n);
int SHA256_Final(unsigned char *md, void *context);
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

-- HMAC-SHA256 under one key, for many short texts: the key's part is computed once, which leaves a
-- quarter of what OpenSSL's HMAC() takes. Returns a function of `text` that gives a pointer to 32
-- bytes, good until the next call.
function _M.hmac_under(key)
  local size = 128
  local inner, outer = ffi.new("unsigned char[?]", size), ffi.new("unsigned char[?]", size)
  local context = ffi.new("unsigned char[?]", size)
  local answer = ffi.new("unsigned char[32]")
  local padded = key .. string.rep("\0", 64 - #key)
  for pad, start in pairs({ [0x36] = inner, [0x5c] = outer }) do
    local block = string.gsub(padded, ".", function(c)
      return string.char(bit.bxor(string.byte(c), pad))
    end)
    ffi.C.SHA256_Init(start)
    ffi.C.SHA256_Update(start, block, 64)
  end
  return function(text)
    ffi.copy(context, inner, size)
    ffi.C.SHA256_Update(context, text, #text)
    ffi.C.SHA256_Final(answer, context)
    ffi.copy(context, outer, size)
    ffi.C.SHA256_Update(context, answer, 32)
    ffi.C.SHA256_Final(answer, context)
    return answer
  end
end

return _M
