-- What an operator sets. Everything else in this folder stays as it is. Read when nginx starts or
-- reloads; files named here are read then, by nginx's master.
return {
  redis = {
    host = "127.0.0.1",  -- an address, or "unix:/run/redis/redis.sock"
    port = 6379,
    database = 0,
    username = nil,
    password_file = nil,  -- a file that holds the password alone
    prefix = "velvetrope:",
    connect_timeout_ms = 100,
    answer_timeout_ms = 250,
    pool_size = 64,  -- idle connections kept by each worker
  },

  -- When Redis is away for longer than stale_s: "open" lets requests through, "closed" answers 503.
  when_away = "open",

  -- For how long what is known of a caller is used: a decision, a clear and an entry of the
  -- allowlist hold after a second at most. The mode (the kill switch) is read twice as often.
  cache_s = 1.0,
  -- Redis away, what was last known of a caller is used this long.
  stale_s = 5.0,
  -- For which a key's account is remembered.
  identity_s = 60.0,

  -- A header that names the account, when something before nginx has authenticated the caller and
  -- no client can set it, such as "X-Account". nil: velvetrope goes by the API key alone.
  caller_header = nil,

  -- Decisions about addresses and networks. Behind another proxy, set up nginx's realip module
  -- first: it is the proxy that they would hit.
  by_address = false,

  -- What the log has of requests' inputs: "plain", their bodies; "sketch", keyed hashes and counts
  -- (docs/sketch.md) so that no prompt is in the log, of vectors the body all the same; "none".
  log_input = "plain",

  -- A keyring (velvetrope keys new), the same at every gateway: for sketches, and to sign what the
  -- page of a challenge learns of the client, as [api.challenge] keys.
  keys_file = nil,

  -- Where a challenged client authenticates again, and where it gets a proof of work (served by the
  -- verdict API, see challenge.conf). nil: it is not told. Both need keys_file.
  challenge_url = nil,
  challenge_place = nil,
  answer_within_s = 600,
  -- Requests of a caller that passed a challenge.
  passed_rate_per_min = 30,
  passed_burst = 10,

  -- HMAC key of the jitter in Retry-After, as [api] jitter_key.
  jitter_key = "velvetrope",
}
