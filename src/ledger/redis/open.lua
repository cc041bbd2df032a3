-- KEYS tasks due forget counts above below [idempotency]
-- ARGV id, value, due ('' when ended), now, key, content, agent, budget ('' none), the tasks above (nearest first),
--      how many may be below the root
local id, value, due, now, content = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local chain = ARGV[9]

if KEYS[7] then
  local content_before, first = key_read(KEYS[7])
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
for n = 1, #chain, 16 do
  local parent = redis.call('HGET', KEYS[1], string.sub(chain, n, n + 15))
  if not parent then
    return { 'no_task' }
  end
  local p = task_read(parent)
  if p.state ~= 'o' or tonumber(now) >= task_due(p) then
    return { 'task_not_open', parent }
  end
end
if chain ~= '' and #below(KEYS[6], string.sub(chain, -16)) >= tonumber(ARGV[10]) then
  return { 'sub_tasks' }
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
if chain ~= '' then
  redis.call('HSET', KEYS[5], id, chain)
  for n = 1, #chain, 16 do
    redis.call('ZADD', KEYS[6], 0, string.sub(chain, n, n + 15) .. id)
  end
end
if KEYS[7] then
  key_write(KEYS[7], KEYS[3], ARGV[5], content, id, now)
end
return { 'ok' }
