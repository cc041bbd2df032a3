-- KEYS leases due
-- ARGV id, at, cause
local id, at = ARGV[1], tonumber(ARGV[2])
local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if (l.state ~= 'r' and l.state ~= 'a') or at >= ends_at(l) then
  return { 'ok', raw }
end

l.cause, l.since = tonumber(ARGV[3]), at
local packed = lease_pack(l)
redis.call('HSET', KEYS[1], id, packed)
if l.state == 'a' then
  redis.call('ZADD', KEYS[2], ARGV[2], 'l' .. id)
end
return { 'ok', packed }
