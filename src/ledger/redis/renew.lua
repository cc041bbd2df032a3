-- KEYS leases due tasks cutoffs
-- ARGV id, expires_at, now, what else the renewal says, selectors...
local id, expires_at = ARGV[1], tonumber(ARGV[2])
local l, refusal = live(KEYS[1], KEYS[3], KEYS[4], id, tonumber(ARGV[3]), { unpack(ARGV, 5) })
if not l then
  return refusal
end

-- The credential of before is still out: a lease never ends before it.
if expires_at > l.expires_at then
  l.expires_at, l.renewal = expires_at, ARGV[4]
  redis.call('HSET', KEYS[1], id, lease_pack(l))
  redis.call('ZADD', KEYS[2], ARGV[2], 'l' .. id)
end
local packed = lease_pack(l)
return { 'ok', packed }
