-- How a step that gives something out runs: only in a ledger that is still what it was.
-- The last key is the lineage of the shard; the last two arguments are the writer and how far it knows to
-- have come. One count tells all: it is 1 where the writer is not entered, or nobody is.
local seen, writer, lineage = tonumber(table.remove(ARGV)), table.remove(ARGV), table.remove(KEYS)
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
