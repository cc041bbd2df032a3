-- How a step that gives something out runs: only in a ledger that is still what it was.
-- The last key is the lineage of the shard; the last three arguments are the writer, how far it knows to
-- have come, and in which epoch. The count is 1 where the writer is not entered, or nobody is; in another
-- epoch it may be anything.
local epoch, seen = table.remove(ARGV), tonumber(table.remove(ARGV))
local writer, lineage = table.remove(ARGV), table.remove(KEYS)
if redis.call('HGET', lineage, 'epoch') ~= epoch then
  return { 'lost' }
end
local progress = redis.call('HINCRBY', lineage, writer, 1)
if progress <= seen then
  if progress == 1 then
    redis.call('HDEL', lineage, writer)
  else
    redis.call('HINCRBY', lineage, writer, -1)
  end
  return { 'lost' }
end
local reply = step()
table.insert(reply, 2, progress)
return reply
