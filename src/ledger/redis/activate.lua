-- KEYS leases due pending cutoffs
-- ARGV id, handle, expires_at, selectors...
-- Without selectors the answer may be `who`: see `live`.
local id = ARGV[1]
local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if l.state ~= 'r' then
  return { 'lease_not_open', raw }
end
if in_reach(KEYS[4], id) then
  if #ARGV == 3 then
    return { 'who', raw }
  end
  local cut = cut_by(KEYS[4], id, { unpack(ARGV, 4) })
  if cut then
    return { 'cut', cut }
  end
end

l.state, l.handle, l.expires_at = 'a', ARGV[2], tonumber(ARGV[3])
redis.call('HSET', KEYS[1], id, lease_pack(l))
redis.call('ZADD', KEYS[2], ends_at(l), 'l' .. id)
redis.call('ZREM', KEYS[3], id)
return { 'ok' }
