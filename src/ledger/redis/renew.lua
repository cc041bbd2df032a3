-- KEYS leases due tasks cutoffs
-- ARGV id, expires_at, now, what else the renewal says, selectors...
-- The head does not say whose the lease is. That matters only when some cutoff reaches leases as old as
-- this one; then the answer is `who`, and the caller asks again with the selectors, which never change.
local id, expires_at, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if l.state ~= 'a' then
  return { 'lease_not_open', raw }
end
if now >= l.expires_at then
  return { 'expired' }
end
local stored = redis.call('HGET', KEYS[3], l.task)
if not stored then
  return { 'no_task' }
end
local t = task_read(stored)
if t.state ~= 'o' or now >= task_due(t) then
  return { 'task_not_open', stored }
end
if in_reach(KEYS[4], id) then
  if #ARGV == 4 then
    return { 'who', raw }
  end
  local cut = cut_by(KEYS[4], id, { unpack(ARGV, 5) })
  if cut then
    return { 'cut', cut }
  end
end

-- The credential of before is still out: a lease never ends before it.
if expires_at > l.expires_at then
  l.expires_at, l.renewal = expires_at, ARGV[4]
  redis.call('HSET', KEYS[1], id, lease_pack(l))
  redis.call('ZADD', KEYS[2], ARGV[2], 'l' .. id)
end
local packed = lease_pack(l)
return { 'ok', packed }
