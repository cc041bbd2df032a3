-- KEYS leases
-- ARGV id, handle
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if l.state ~= 'r' then
  return { 'lease_not_open', raw }
end
l.handle = ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], lease_pack(l))
return { 'ok' }
