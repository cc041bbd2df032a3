-- KEYS leases due
-- ARGV id, now
local id, now = ARGV[1], tonumber(ARGV[2])
local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if l.state ~= 'v' and l.state ~= 's' then
  return { 'lease_not_ending', raw }
end
-- Whoever is at it is not disturbed, and what is due already keeps its place.
local due = redis.call('ZSCORE', KEYS[2], 'l' .. id)
if l.hold % 2 == 1 or (due and tonumber(due) <= now) then
  return { 'ok', raw }
end

l.at = now
local packed = lease_pack(l)
redis.call('HSET', KEYS[1], id, packed)
redis.call('ZADD', KEYS[2], ARGV[2], 'l' .. id)
return { 'ok', packed }
