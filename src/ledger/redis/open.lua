-- KEYS tasks due forget counts [idempotency]
-- ARGV id, value, due ('' when ended), now, key, content, agent, budget ('' none)
local id, value, due, now, content = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]

if KEYS[5] then
  local content_before, first = key_read(KEYS[5])
  if content_before and content_before ~= content then
    return { 'key_reused' }
  end
  local task = first and redis.call('HGET', KEYS[1], first)
  if task then
    return { 'repeated', task }
  end
end
if redis.call('HEXISTS', KEYS[1], id) == 1 then
  return { 'exists' }
end
local counted, limit = 'o' .. ARGV[7], ARGV[8]
if limit ~= '' and tonumber(redis.call('HGET', KEYS[4], counted) or 0) >= tonumber(limit) then
  return { 'budget' }
end

redis.call('HSET', KEYS[1], id, value)
if due ~= '' then
  redis.call('ZADD', KEYS[2], due, 't' .. id)
  redis.call('HINCRBY', KEYS[4], counted, 1)
end
if KEYS[5] then
  key_write(KEYS[5], KEYS[3], ARGV[5], content, id, now)
end
return { 'ok' }
