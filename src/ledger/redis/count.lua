-- How a step that ends something runs: always, and counted where the writer is entered.
-- The last key is the lineage of the shard, the last argument the writer.
local writer, lineage = table.remove(ARGV), table.remove(KEYS)
local reply = step()
local progress = 0
if redis.call('HEXISTS', lineage, writer) == 1 then
  progress = redis.call('HINCRBY', lineage, writer, 1)
end
table.insert(reply, 2, progress)
return reply
