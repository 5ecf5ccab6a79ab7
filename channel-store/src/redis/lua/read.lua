-- read: entries of the log after a position or up to it, and whether a reader misses nothing that goes on from there. Without
-- a position it answers the end of the log.
-- It is not flagged no-writes, although it writes only when it may begin an empty epoch. So a replica refuses it (READONLY),
-- and no stale server ever says whether a position is contiguous. Allowed when memory is full. Follows epoch.lua,
-- continuity.lua.
--
-- ARGV  1 epoch, '-' for the empty one, or '' for no position  2 offset  3 entries at most  4 their bytes at most; but the
--       first entry is always given  5 'after': oldest first, from what follows the answer's position; 'upto': newest
--       first, from the position down, if that is contiguous
--       6 seconds that an empty epoch lives which this call may begin for a channel that does not exist, so that the
--       reader's position has a name; '': it begins none
-- reply { continuity, server lifetime ('master_replid:...'), last offset, 'epoch@start epoch@start ...', epoch, offset,
--         1 if there is more in that direction, entries }
--   continuity: see continuity.lua. Where it is contiguous, entries follow the position. Without a position, it is, and
--   (epoch, offset) is the log's end. Else (epoch, offset) is where to go on from, and entries follow that.
-- An entry is two items: 'offset-ms' and its data. Its epoch is the last of the table whose start is <= its offset.
-- A channel that does not exist ends at ('', 0). That position is before the first publication, and is answered with the name
-- that the place has by then.
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
local continuity, first, epochs = 'contiguous', nil, nil
if since == '' then
  local head = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  first, epochs, from = head and tonumber(string.match(head[1], '^%d+')) or last + 1, call('HGET', meta, 't'), last
else
  continuity, from, first, epochs = judge(since, from)
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
