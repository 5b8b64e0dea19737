-- GCRA and fixed windows over any number of limits, all or nothing: a request that one of them
-- refuses is charged to none. One call, on the server's own clock, so that gateways whose clocks
-- disagree still count together. The same arithmetic as responders/actions/throttle.py.
--
-- A limit with a burst is GCRA in its leaky-bucket form (ITU-T I.371, equivalent to virtual
-- scheduling): `quota` units drain in `window_s` seconds, and at most `burst` fit at once. A limit
-- without one is a fixed window: `quota` units between two multiples of `window_s` since 1970,
-- for 86400 a day of UTC. A cost beyond the whole burst or quota passes when nothing is in, or
-- it could never pass.
--
-- KEYS: <prefix>limit:<bucket>, one for each limit; on a cluster all in one slot, by a hash tag.
-- ARGV:
--   1  'take' or 'settle'
--   2  '' for the server's TIME, or microseconds since 1970 (tests; Redis still ends keys by its own)
--   3  'settle': the microseconds that the 'take' which is corrected gave back; '' for 'take'
--   then for each key: cost, quota, window_s, burst
--     cost: units to charge; 0 charges nothing and is never refused, and tells what is left.
--       Of 'settle': actual units less those charged, a refund when negative; always applied.
--     quota: units for each window_s seconds, above 0
--     burst: units at once; 0 makes it a fixed window
-- Returns: {allowed, now, then for each key: conforms, remaining, retry_after, reset}
--   allowed    1 when the request was charged, else 0 (1 for 'settle')
--   now        microseconds since 1970, a string: hand it back in 'settle'
--   conforms   1 when this limit had room, else 0
--   remaining  whole units that would pass at once now, a string
--   retry_after, reset  seconds, strings: until the same cost conforms (0 if it does), and until
--              nothing is in the bucket, or the window ends
--
-- State is '<units> <microseconds>' of a bucket, and '<units> <number>' of a window: units in it
-- when it was last looked at. It ends by itself a second after it says nothing any more.

if #ARGV ~= 3 + 4 * #KEYS then
  return redis.error_reply('gcra: ' .. #ARGV .. ' arguments for ' .. #KEYS .. ' keys')
end
local settling = ARGV[1] == 'settle'
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local charged_at = tonumber(ARGV[3])

local limits, allowed = {}, 1
for i, key in ipairs(KEYS) do
  local a = 3 + (i - 1) * 4
  local cost, quota = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local window, burst = tonumber(ARGV[a + 3]) * 1000000, tonumber(ARGV[a + 4])
  local units, at = string.match(redis.call('GET', key) or '', '^(%S+) (%d+)$')
  units, at = tonumber(units) or 0, tonumber(at) or 0
  local limit = {key = key, cost = cost, conforms = 1, retry = 0}
  if burst > 0 then
    local rate = quota / window
    -- A clock that went back drains nothing.
    units = math.max(0, units - math.max(0, now - at) * rate)
    limit.at = math.max(at, now)
    -- 10 us of what drains: clients wait in whole microseconds, and doubles round.
    local slack = 10 * rate + 1e-9 * burst
    if cost > 0 and units > slack and units + cost > burst + slack then
      limit.conforms = 0
      limit.retry = (cost > burst and units or units + cost - burst) / rate
    end
    limit.room = function(u) return math.floor(burst - u + slack) end
    limit.reset = function(u) return u / rate end
  else
    local window_now = math.floor(now / window)
    if at < window_now then
      units, at = 0, window_now
    end
    local left = (at + 1) * window - now
    if cost > 0 and units > 0 and units + cost > quota then
      limit.conforms, limit.retry = 0, left
    end
    -- What was charged in a window that is over is not given back in this one.
    if settling and math.floor(charged_at / window) ~= at then
      limit.cost = 0
    end
    limit.at = at
    limit.room = function(u) return math.floor(quota - u) end
    limit.reset = function() return left end
  end
  if limit.conforms == 0 and not settling then
    allowed = 0
  end
  limit.units = units
  limits[i] = limit
end

local answer = {allowed, string.format('%.0f', now)}
for _, limit in ipairs(limits) do
  local units = limit.units
  if allowed == 1 and limit.cost ~= 0 then
    units = math.max(0, units + limit.cost)
    if units > 0 then
      redis.call('SET', limit.key, string.format('%.17g %.0f', units, limit.at),
        'PX', string.format('%.0f', math.ceil(limit.reset(units) / 1000) + 1000))
    else
      redis.call('DEL', limit.key)
    end
  end
  answer[#answer + 1] = settling and 1 or limit.conforms
  answer[#answer + 1] = string.format('%.0f', math.max(0, limit.room(units)))
  answer[#answer + 1] = string.format('%.17g', settling and 0 or limit.retry / 1000000)
  answer[#answer + 1] = string.format('%.17g', limit.reset(units) / 1000000)
end
return answer
