-- KEYS context rechecks queue
-- ARGV key, hold, record ('' when it is done)
-- One that was ordered again while somebody was at it begins again once it is done.
local key = ARGV[1]
local raw = redis.call('HGET', KEYS[2], key)
local o = raw and order_read(raw)
if not o or o.hold ~= tonumber(ARGV[2]) then
  return { 'claim_lost' }
end
if ARGV[3] == '' then
  local due = redis.call('HGET', KEYS[2], again(key))
  if due then
    redis.call('HSET', KEYS[2], key, due)
    redis.call('HDEL', KEYS[2], again(key))
    redis.call('ZADD', KEYS[3], last_place(KEYS[1], key), key)
    return { 'ok' }
  end
  redis.call('HDEL', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
  return { 'ok' }
end
o.hold, o.record = 0, ARGV[3]
redis.call('HSET', KEYS[2], key, order_pack(o))
redis.call('ZADD', KEYS[3], last_place(KEYS[1], key), key)
return { 'ok' }
