-- Sketches of inputs, version 1: docs/sketch.md says every byte, velvetrope_client.sketch does the
-- same in Python, and both are held to the same test vectors.
local bit = require "bit"
local ffi = require "ffi"
local digest = require "velvetrope.digest"

pcall(ffi.cdef, [[
double log2(double x);
]])

local _M = {}
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local SIZE = 361
local MOST = 4294967295
local MOST_WORD = 32
local MIN_SUMMED = 4
local REMEMBERED = 16384
local OF_TEXT, OF_HEAD, OF_TAIL = "\2", "\3", "\4"

-- A function of a text that gives its sketch, under a key of 32 bytes. `lists` is words.json.
function _M.new(key, lists)
  local hash = digest.hmac_under(key)
  local known = _M.read_lists(lists)
  local tag = ffi.string(hash("\0"), 4)
  local places, remembered = {}, 0
  local out = ffi.new("uint8_t[?]", SIZE)
  local sums = ffi.new("double[128]")
  local smallest = ffi.new("double[16]")
  local counts = ffi.new("uint32_t[256]")

  -- Where a word counts: dimension, sign, bit, bucket and its value there.
  local function place_of(word)
    local place = places[word]
    if not place then
      local h = hash("\1" .. word)
      place = {
        band(h[0], 127), h[0] >= 128 and 1 or -1, band(h[1] + 256 * h[2], 1023), band(h[3], 15),
        h[4] + 256 * h[5] + 65536 * h[6] + 16777216 * h[7],
      }
      if remembered >= REMEMBERED then
        places, remembered = {}, 0
      end
      places[word] = place
      remembered = remembered + 1
    end
    return place
  end

  local function put(at, value)
    value = math.min(value, MOST)
    for i = at, at + 3 do
      out[i] = value % 256
      value = math.floor(value / 256)
    end
  end

  return function(text)
    ffi.fill(out, SIZE)
    ffi.fill(sums, 128 * 8)
    for i = 0, 15 do
      smallest[i] = MOST
    end
    local signs, total, functions, odd = 0, 0, 0, 0
    local before, article
    local function count(word)
      total = total + 1
      local said = known.anywhere[word]
      if said then
        signs = bor(signs, said)
      end
      if not before then
        signs = bor(signs, known.opening[word] or 0)
      else
        local pairs_of = known.pairs[before]
        if pairs_of then
          signs = bor(signs, pairs_of[word] or 0)
        end
      end
      if known.functions[word] then
        functions = functions + 1
        if article then
          odd = odd + 1
        end
      end
      article = known.articles[word]
      before = word
      local place = place_of(word)
      if #word >= MIN_SUMMED then
        sums[place[1]] = sums[place[1]] + place[2]
      end
      local byte = 169 + rshift(place[3], 3)
      out[byte] = bor(out[byte], lshift(1, band(place[3], 7)))
      if place[5] < smallest[place[4]] then
        smallest[place[4]] = place[5]
      end
    end
    for run in string.gmatch(string.lower(text), "[0-9a-z\128-\255]+") do
      for at = 1, #run, MOST_WORD do
        count(string.sub(run, at, at + MOST_WORD - 1))
      end
    end
    if _M.last_visible(text) == 63 then  -- "?"
      signs = bor(signs, known.asks)
    end

    out[0] = signs
    ffi.copy(out + 1, tag, 4)
    put(5, #text)
    put(9, total)
    put(13, functions)
    put(17, odd)
    put(21, _M.entropy(text, counts))
    ffi.copy(out + 25, hash(OF_TEXT .. text), 8)
    ffi.copy(out + 33, hash(OF_HEAD .. string.sub(text, 1, 40)), 4)
    ffi.copy(out + 37, hash(OF_TAIL .. string.sub(text, -24)), 4)
    local most = 0
    for i = 0, 127 do
      most = math.max(most, math.abs(sums[i]))
    end
    for i = 0, 127 do
      local sum = sums[i]
      if most > 127 then
        sum = sum * 127 / most
        sum = sum < 0 and math.ceil(sum) or math.floor(sum)
      end
      out[41 + i] = sum % 256
    end
    for i = 0, 15 do
      put(297 + 4 * i, smallest[i])
    end
    local encoded = ngx.encode_base64(ffi.string(out, SIZE), true)
    return "1." .. string.gsub(encoded, "[+/]", { ["+"] = "-", ["/"] = "_" })
  end
end

-- words.json by word: bits of signs, and sets of function words and articles.
function _M.read_lists(lists)
  local bits = {}
  for i, name in ipairs(lists.signs) do
    bits[name] = lshift(1, i - 1)
  end
  local known = { opening = {}, anywhere = {}, pairs = {}, functions = {}, articles = {},
    asks = bits.asks }
  for _, place in ipairs({ "opening", "anywhere" }) do
    for sign, words in pairs(lists[place]) do
      for _, word in ipairs(words) do
        known[place][word] = bor(known[place][word] or 0, bits[sign])
      end
    end
  end
  for sign, entries in pairs(lists.pairs) do
    for _, entry in ipairs(entries) do
      local first, second = string.match(entry, "^(%S+)%s+(%S+)$")
      known.pairs[first] = known.pairs[first] or {}
      known.pairs[first][second] = bor(known.pairs[first][second] or 0, bits[sign])
    end
  end
  for _, word in ipairs(lists.function_words) do
    known.functions[word] = true
  end
  for _, word in ipairs(lists.articles) do
    known.articles[word] = true
  end
  return known
end

-- The last byte above 0x20, or nil.
function _M.last_visible(text)
  for i = #text, 1, -1 do
    local byte = string.byte(text, i)
    if byte > 32 then
      return byte
    end
  end
end

-- Bits a byte, in units of 2^-24, the nearest.
function _M.entropy(text, counts)
  local length = #text
  if length == 0 then
    return 0
  end
  ffi.fill(counts, 256 * 4)
  local bytes = ffi.cast("const uint8_t *", text)
  for i = 0, length - 1 do
    counts[bytes[i]] = counts[bytes[i]] + 1
  end
  local total = 0
  for byte = 0, 255 do
    local n = counts[byte]
    if n > 0 then
      total = total + n * ffi.C.log2(n)
    end
  end
  return math.floor(math.max(0, ffi.C.log2(length) - total / length) * 16777216 + 0.5)
end

return _M
