-- KEYS tasks due by_task leases pending forget feed seq counts above below places
-- ARGV id, change, now, outcome, cause, the task's cutoff, when its leases are due, and of sub-tasks that end with it
--      the outcome and the cause
-- The leases of sub-tasks are in the index of each task above.
local id, change, now, cause = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])

-- A task has ended: it falls due no more, is forgotten one day, and is below nothing.
local function over(task, t, outcome)
  if t.outcome > 0 then
    local chain = redis.call('HGET', KEYS[10], task)
    for n = 1, #chain, 16 do
      redis.call('ZREM', KEYS[11], string.sub(chain, n, n + 15) .. task)
    end
    redis.call('HDEL', KEYS[10], task)
  end
  t.state, t.outcome, t.ended_at = 'e', outcome, now
  redis.call('HSET', KEYS[1], task, task_pack(t))
  redis.call('ZREM', KEYS[2], 't' .. task)
  redis.call('ZADD', KEYS[6], now, 't' .. task)
  count_down(KEYS[9], { 'o' .. t.agent })
end

local raw = redis.call('HGET', KEYS[1], id)
if not raw then
  return { 'no_task' }
end
local t = task_read(raw)
local ends, was = change == 'end', t.state
if was == 'e' then
  if ends then
    return { 'ok', raw }
  end
  return { 'task_not_open', raw }
end
if not ends and now >= task_due(t) then
  return { 'task_not_open', raw }
end
if change == 'beat' then
  if was ~= 'o' then
    return { 'task_not_open', raw }
  end
  t.beat_at = math.max(t.beat_at, now)
elseif change == 'resume' then
  if was == 'o' then
    return { 'ok', raw }
  end
  t.state, t.beat_at = 'o', now
elseif change == 'suspend' then
  if was == 's' then
    return { 'ok', raw }
  end
  t.state = 's'
else
  over(id, t, tonumber(ARGV[4]))
end

if ends or change == 'suspend' then
  local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. string.format('%.0f', CLASS))
  local turned, leases, values, due, pending, told = {}, {}, {}, {}, {}, {}
  for n, stored in ipairs(read_all(KEYS[4], ids)) do
    local l = stored and lease_read(stored)
    if l and (l.state == 'r' or l.state == 'a') then
      turned[#turned + 1], leases[#leases + 1] = ids[n], l
    end
  end
  strike(KEYS[12], leases)
  for n, l in ipairs(leases) do
    local lease, why = turned[n], l.task == id and cause or tonumber(ARGV[9])
    turn(l, why, now)
    values[#values + 1], values[#values + 2] = lease, lease_pack(l)
    due[#due + 1], due[#due + 2] = ARGV[7], 'l' .. lease
    pending[#pending + 1], pending[#pending + 2] = place(STATES.v, lease), lease
    told[n] = end_of(why, lease)
  end
  many('HSET', KEYS[4], values)
  many('ZADD', KEYS[2], due)
  many('ZADD', KEYS[5], pending)
  -- A suspended task may be resumed, so its end is told lease by lease.
  if not ends then
    publish_all(KEYS[7], KEYS[8], now, 'l', told)
  end
  if ends then
    publish(KEYS[7], KEYS[8], now, 'c', ARGV[6])
    for _, sub_task in ipairs(below(KEYS[11], id)) do
      over(sub_task, task_read(redis.call('HGET', KEYS[1], sub_task)), tonumber(ARGV[8]))
      publish(KEYS[7], KEYS[8], now, 't', end_of(tonumber(ARGV[9]), sub_task))
    end
  end
end

local packed = task_pack(t)
if not ends then
  redis.call('HSET', KEYS[1], id, packed)
  redis.call('ZADD', KEYS[2], task_due(t), 't' .. id)
end
return { 'ok', packed }
