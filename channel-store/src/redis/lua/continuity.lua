-- continuity: finds out how a position stands in the log. It follows epoch.lua, in scripts that know that the channel exists.
--
-- epoch '-' with offset 0 is the position before the first publication: it is contiguous as long as the log holds that one.
-- Returns the continuity, the offset to go on from, the offset of the first entry that is held, and the table of epochs.
--   contiguous  entries follow the position without a gap
--   diverged    the reader saw publications that this log does not have
--   trimmed     the log does not hold any more what follows
--   unknown     the epoch is of another life of the channel, or the reader diverged before all that the log holds
local function judge(since, from)
  local head = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  local first = head and tonumber(string.match(head[1], '^%d+')) or last + 1
  local epochs = call('HGET', meta, 't')
  if since == '-' and from == 0 then
    if first > 1 then return 'trimmed', first - 1, first, epochs end
    return 'contiguous', from, first, epochs
  end
  local known, stop -- whether the epoch is in the table, and the last offset that it shares with this log
  for id, start in string.gmatch(epochs, '(%w+)@(%d+)') do
    if known and not stop then stop = tonumber(start) - 1 end
    if id == since then known = true end
  end
  stop = stop or last
  if not known then return 'unknown', first - 1, first, epochs end
  if from > stop then
    -- If the log does not hold that epoch's end any more, either, no position is known up to which the reader saw the same.
    if stop >= first - 1 then return 'diverged', stop, first, epochs end
    return 'unknown', first - 1, first, epochs
  end
  if from + 1 < first then return 'trimmed', first - 1, first, epochs end
  return 'contiguous', from, first, epochs
end
