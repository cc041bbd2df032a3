-- KEYS leases due tasks above cutoffs
-- ARGV id, expires_at, now, what else the renewal says, the cause of its own end, the version of the facts, selectors...
local id, expires_at = ARGV[1], tonumber(ARGV[2])
local now, facts = tonumber(ARGV[3]), tonumber(ARGV[6])
local l, refusal = live(KEYS[1], KEYS[3], KEYS[4], KEYS[5], id, now, { unpack(ARGV, 7) }, facts)
if not l then
  return refusal
end

-- The credential of before is still out: a lease never ends before what was permitted of it.
if expires_at > ends_at(l) then
  if expires_at < l.expires_at then
    l.since = expires_at
  else
    l.expires_at, l.cause, l.since = expires_at, 0, 0
  end
  l.renewal, l.proof = ARGV[4], tonumber(ARGV[5])
  redis.call('HSET', KEYS[1], id, lease_pack(l))
  redis.call('ZADD', KEYS[2], ARGV[2], 'l' .. id)
end
local packed = lease_pack(l)
return { 'ok', packed }
