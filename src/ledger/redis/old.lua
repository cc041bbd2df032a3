-- KEYS tasks leases forget
-- ARGV until which what ended is old, limit
-- What is to be forgotten. A lease's indexes are named after what only its record tells, so Rust reads
-- that and calls forget.lua.
local found = { 'ok' }
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local kind, id = string.sub(member, 1, 1), string.sub(member, 2)
  local raw = kind == 'k' and '' or redis.call('HGET', kind == 't' and KEYS[1] or KEYS[2], id)
  if raw then
    found[#found + 1] = { kind, id, raw }
  else
    redis.call('ZREM', KEYS[3], member)
  end
end
return found
