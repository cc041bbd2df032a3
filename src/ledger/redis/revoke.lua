-- KEYS leases due pending feed seq places
-- ARGV id, cause, now, when it is due
local id, cause, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if l.state ~= 'r' and l.state ~= 'a' then
  return { 'ok', raw }
end

strike(KEYS[6], l)
turn(l, cause, now)
local packed = lease_pack(l)
redis.call('HSET', KEYS[1], id, packed)
redis.call('ZADD', KEYS[2], ARGV[4], 'l' .. id)
redis.call('ZADD', KEYS[3], place(STATES.v, id), id)
publish_lease(KEYS[4], KEYS[5], now, cause, id)
return { 'ok', packed }
