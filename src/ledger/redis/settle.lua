-- KEYS leases due pending forget counts and every index that it is in
-- ARGV id, hold, how, now, agent, tool, task, then for `ended` and `abandoned`: proof, its instant, the signature on
--      the receipt;
--      for `retry` and `stuck`: the next attempt, what went wrong; for `later`: the next attempt
local id, how, now = ARGV[1], ARGV[3], tonumber(ARGV[4])
local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_lease' }
end
local l = lease_read(raw)
if how == 'abandoned' then
  -- Whoever is at it: a person gives it up.
  if l.state ~= 's' then
    return { 'lease_not_stuck', raw }
  end
elseif (l.state ~= 'v' and l.state ~= 's') or l.hold ~= tonumber(ARGV[2]) then
  return { 'claim_lost' }
end

-- A hold is good for one settlement.
l.hold = l.hold + 1
if how == 'ended' or how == 'abandoned' then
  l.state, l.since, l.proof, l.at, l.error = 'e', now, tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
  local packed = lease_pack(l)
  redis.call('HSET', KEYS[1], id, packed)
  redis.call('ZREM', KEYS[2], 'l' .. id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('ZADD', KEYS[4], now, 'l' .. id)
  for _, field in ipairs({ 't' .. ARGV[7], 'a' .. ARGV[5], 'c' .. ARGV[6] }) do
    count_down(KEYS[5], field)
  end
  for n = 6, #KEYS do
    redis.call('ZADD', KEYS[n], place(1, id), id)
  end
  return { 'ok', packed }
end
l.at = tonumber(ARGV[8])
if how == 'later' then
  redis.call('HSET', KEYS[1], id, lease_pack(l))
  redis.call('ZADD', KEYS[2], ARGV[8], 'l' .. id)
  return { 'ok' }
end
l.attempts, l.error = math.min(l.attempts + 1, 4294967295), ARGV[9]
l.state = how == 'stuck' and 's' or 'v'
redis.call('ZADD', KEYS[3], place(STATES[l.state], id), id)
redis.call('HSET', KEYS[1], id, lease_pack(l))
redis.call('ZADD', KEYS[2], ARGV[8], 'l' .. id)
return { 'ok' }
