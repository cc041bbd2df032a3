-- KEYS tasks due forget [idempotency]
-- ARGV id, value, due ('' when ended), now, key, content
local id, value, due, now, content = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]

if KEYS[4] then
  local content_before, first = key_read(KEYS[4])
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

redis.call('HSET', KEYS[1], id, value)
if due ~= '' then
  redis.call('ZADD', KEYS[2], due, 't' .. id)
end
if KEYS[4] then
  key_write(KEYS[4], KEYS[3], ARGV[5], content, id, now)
end
return { 'ok' }
