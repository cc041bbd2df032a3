-- KEYS tasks leases due pending feed seq places
-- ARGV now, until, limit, the causes of an expired lease and of an abandoned reservation
local now, untl = tonumber(ARGV[1]), ARGV[2]
local claims = { 'ok' }
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local kind, id = string.sub(member, 1, 1), string.sub(member, 2)
  if kind == 't' then
    local raw = redis.call('HGET', KEYS[1], id)
    if raw then
      redis.call('ZADD', KEYS[3], untl, member)
      claims[#claims + 1] = { 't', id, raw }
    else
      redis.call('ZREM', KEYS[3], member)
    end
  else
    local raw = redis.call('HGET', KEYS[2], id)
    if raw then
      local l = lease_read(raw)
      if l.state == 'a' then
        if l.cause ~= 0 and l.since < l.expires_at then
          -- Its credential looks as if it were good for longer.
          if now < l.expires_at then
            publish_lease(KEYS[5], KEYS[6], now, l.cause, id)
            strike(KEYS[7], l)
          end
          turn(l, l.cause, l.since)
        else
          turn(l, l.proof ~= 0 and l.proof or tonumber(ARGV[4]), l.expires_at)
        end
        redis.call('ZADD', KEYS[4], place(STATES.v, id), id)
      elseif l.state == 'r' then
        -- A credential may be out that nobody told us of.
        if now < l.expires_at then
          publish_lease(KEYS[5], KEYS[6], now, tonumber(ARGV[5]), id)
          strike(KEYS[7], l)
        end
        turn(l, tonumber(ARGV[5]), now)
        redis.call('ZADD', KEYS[4], place(STATES.v, id), id)
      end
      -- Odd numbers are holds; a hold that ran out is followed by the next odd one.
      l.hold = l.hold + 1 + l.hold % 2
      l.at = tonumber(untl)
      local packed = lease_pack(l)
      redis.call('HSET', KEYS[2], id, packed)
      redis.call('ZADD', KEYS[3], untl, member)
      claims[#claims + 1] = { 'l', id, packed }
    else
      redis.call('ZREM', KEYS[3], member)
    end
  end
end
return claims
