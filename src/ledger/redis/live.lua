-- KEYS leases tasks above cutoffs
-- ARGV id, now, selectors...
local l, refusal = live(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], tonumber(ARGV[2]), { unpack(ARGV, 3) })
if not l then
  return refusal
end
return { 'ok', redis.call('HGET', KEYS[1], ARGV[1]) }
