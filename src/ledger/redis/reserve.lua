-- KEYS tasks leases due pending counts tools cutoffs forget by_task by_agent by_tool [by_user] [idempotency]
-- ARGV id, task, value, now, key ('' none), state, due, agent, tool, budgets of task, agent and tool ('' none),
--      user?, content, selectors...
local id, task, value, now, key, content = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[14]

if key ~= '' then
  local content_before, first = key_read(KEYS[#KEYS])
  if content_before then
    if content_before ~= content then
      return { 'key_reused' }
    end
    return { 'repeated', first }
  end
end
local raw = redis.call('HGET', KEYS[1], task)
if not raw then
  return { 'no_task' }
end
local t = task_read(raw)
if t.state ~= 'o' or now >= task_due(t) then
  return { 'task_not_open', raw }
end
if redis.call('HEXISTS', KEYS[2], id) == 1 then
  return { 'exists' }
end
local cut = cut_by(KEYS[7], id, { unpack(ARGV, 15) })
if cut then
  return { 'cut', cut }
end
local fields = { 't' .. task, 'a' .. ARGV[8], 'c' .. ARGV[9] }
for n, live in ipairs(redis.call('HMGET', KEYS[5], unpack(fields))) do
  local limit = ARGV[9 + n]
  if limit ~= '' and (tonumber(live or 0) or 0) >= tonumber(limit) then
    return { 'budget', n }
  end
end

redis.call('HSET', KEYS[2], id, value)
redis.call('ZADD', KEYS[3], ARGV[7], 'l' .. id)
if STATES[ARGV[6]] then
  redis.call('ZADD', KEYS[4], place(STATES[ARGV[6]], id), id)
end
for _, field in ipairs(fields) do
  redis.call('HINCRBY', KEYS[5], field, 1)
end
redis.call('HINCRBY', KEYS[6], ARGV[9], 1)
for n = 9, (ARGV[13] == '1' and 12 or 11) do
  redis.call('ZADD', KEYS[n], made_at(id), id)
end
if key ~= '' then
  key_write(KEYS[#KEYS], KEYS[8], key, content, id, now)
end
return { 'ok' }
