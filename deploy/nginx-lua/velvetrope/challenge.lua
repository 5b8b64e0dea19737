-- What a challenged caller is told, and whether it has passed already (docs/challenge.md).
local ffi = require "ffi"
local cjson = require "cjson.safe"
local digest = require "velvetrope.digest"
local keys = require "velvetrope.keys"

pcall(ffi.cdef, [[
int RAND_bytes(unsigned char *buf, int num);
]])

local _M = {}
local HARDEST = 6
local PAGE = "challenge page"

-- The problem document.
function _M.document(settings, decision, account)
  local document = {
    type = "about:blank", title = "Unauthorized", status = 401,
    detail = "Please authenticate again.",
  }
  local ticket = settings.key and _M.ticket(settings, decision, account)
  if settings.challenge_url then
    document.authenticate_at = _M.with_ticket(settings.challenge_url, ticket)
  end
  if settings.challenge_place and ticket then
    document.challenge = _M.with_ticket(settings.challenge_place, ticket)
  end
  return cjson.encode(document)
end

-- Whether what an account passed answers a decision.
function _M.lifts(passed, decision, now)
  if not passed or (tonumber(passed["until"]) or 0) <= now then
    return false
  end
  return passed.decision == decision.id
    or _M.difficulty(decision) <= (tonumber(passed.difficulty) or 0)
end

-- 1 to HARDEST; of a decision without one its level.
function _M.difficulty(decision)
  local stated = tonumber(decision.params.difficulty) or decision.level
  return math.max(1, math.min(HARDEST, math.floor(stated)))
end

-- A JWT that tells the operator's page, and GET /challenge, who was asked what.
function _M.ticket(settings, decision, account)
  local head = { alg = "HS256", typ = "JWT", kid = settings.key.id }
  local claims = {
    iss = "velvetrope", aud = "challenge-page", sub = account, jti = _M.random_id(),
    exp = math.ceil(ngx.now() + settings.answer_within_s),
    decision = decision.id, difficulty = _M.difficulty(decision),
  }
  local text = _M.base64url(cjson.encode(head)) .. "." .. _M.base64url(cjson.encode(claims))
  local secret = keys.derive(settings.key, PAGE)
  return text .. "." .. _M.base64url(digest.hmac_sha256(secret, text))
end

function _M.with_ticket(url, ticket)
  if not ticket then
    return url
  end
  return url .. (string.find(url, "?", 1, true) and "&" or "?") .. "ticket=" .. ticket
end

function _M.base64url(bytes)
  return (string.gsub(ngx.encode_base64(bytes, true), "[+/]", { ["+"] = "-", ["/"] = "_" }))
end

function _M.random_id()
  local bytes = ffi.new("unsigned char[16]")
  assert(ffi.C.RAND_bytes(bytes, 16) == 1, "no random bytes")
  return (string.gsub(ffi.string(bytes, 16), ".", function(c)
    return string.format("%02x", string.byte(c))
  end))
end

return _M
