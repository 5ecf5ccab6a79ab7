-- read: entries of the log after a position or up to it, and whether a reader misses nothing that goes on from there. Without
-- a position it answers the end of the log.
-- It is not flagged no-writes, although it writes only when it may begin an empty epoch. So a replica refuses it (READONLY),
-- and no stale server ever says whether a position is contiguous. Allowed when memory is full. Follows epoch.lua.
--
-- ARGV  1 epoch, '-' for the empty one, or '' for no position  2 offset  3 entries at most  4 their bytes at most; but the
--       first entry is always given  5 'after': oldest first, from what follows the answer's position; 'upto': newest
--       first, from the position down, if that is contiguous
--       6 seconds that an empty epoch lives which this call may begin for a channel that does not exist, so that the
--       reader's position has a name; '': it begins none
-- reply { continuity, server lifetime ('master_replid:...'), last offset, 'epoch@start epoch@start ...', epoch, offset,
--         1 if there is more in that direction, entries }
--   continuity  contiguous: entries follow the position without a gap. Without a position, (epoch, offset) is the log's end.
--               diverged: the reader saw publications that this log does not have; trimmed: the log does not hold any more
--               what follows; unknown: the epoch is of another life of the channel, or the reader diverged before all that
--               the log holds. In these three, (epoch, offset) is where to go on from, and entries follow that.
-- An entry is two items: 'offset-ms' and its data. Its epoch is the last of the table whose start is <= its offset.
-- A channel that does not exist ends at ('', 0). That position is before the first publication: it is contiguous as long
-- as the log holds that one, and is answered with the name that the place has by then.
local since, from, count, budget, goes_back = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'upto'
local info = call('INFO', 'replication')
local server = string.match(info, 'master_replid:%x+')
local before_all = since == '-' and from == 0
if not lifetime then
  if ARGV[6] == '' then
    local continuity = (since == '' or before_all) and 'contiguous' or 'unknown'
    return { continuity, server, 0, '', '', 0, 0, {} }
  end
  begin_epoch(info)
  call('EXPIRE', meta, ARGV[6])
end
local head = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local first = head and tonumber(string.match(head[1], '^%d+')) or last + 1

local epochs = call('HGET', meta, 't')
local known, stop -- whether the epoch is in the table, and the last offset that it shares with this log
for id, start in string.gmatch(epochs, '(%w+)@(%d+)') do
  if known and not stop then stop = tonumber(start) - 1 end
  if id == since then known = true end
end
stop = stop or last

local continuity = 'contiguous'
if since == '' then
  from = last
elseif before_all then
  if first > 1 then continuity, from = 'trimmed', first - 1 end
elseif not known then
  continuity, from = 'unknown', first - 1
elseif from > stop then
  -- If the log does not hold that epoch's end any more, either, no position is known up to which the reader saw the same.
  if stop >= first - 1 then continuity, from = 'diverged', stop else continuity, from = 'unknown', first - 1 end
elseif from + 1 < first then
  continuity, from = 'trimmed', first - 1
end

local e = since
if continuity ~= 'contiguous' or since == '' or before_all then -- the last epoch that began there or before
  e = nil
  for id, start in string.gmatch(epochs, '(%w+)@(%d+)') do
    if not e or tonumber(start) <= from then e = id end
  end
end

-- Entries are read here so that their bytes are counted before they are sent. Each step reads as many as surely fit.
local entries, more = {}, 0
if count > 0 and (not goes_back or continuity == 'contiguous') then
  local word, stop_at, at = 'XRANGE', '+', from + 1
  if goes_back then word, stop_at, at = 'XREVRANGE', '-', from end
  local longest = tonumber(string.match(m[6] or '', '^%d+ %d+ %d+ (%d+)')) or budget
  local bytes, reached, goes_on = 0, nil, at >= 1 and (goes_back or at <= last)
  while goes_on and count > 0 do
    local stride = math.max(1, math.min(count, math.floor((budget - bytes) / (longest + 40))))
    local some = call(word, log, format('%d', at), stop_at, 'COUNT', stride)
    goes_on = #some == stride
    for _, entry in ipairs(some) do
      local data = entry[2][2]
      bytes = bytes + #data + 40
      if bytes > budget and reached then
        goes_on = false
        break
      end
      entries[#entries + 1], entries[#entries + 2] = entry[1], data
      reached, count = tonumber(string.match(entry[1], '^%d+')), count - 1
    end
    if reached then at = goes_back and reached - 1 or reached + 1 end
  end
  if reached and (goes_back and reached > first or not goes_back and reached < last) then more = 1 end
end
return { continuity, server, last, epochs, e, from, more, entries }
