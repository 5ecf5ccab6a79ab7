-- read: what follows a position or stands before it, and whether the position still stands. Without a position: the
-- head, to attach there.
-- Not flagged no-writes, although it writes only for who may begin an empty epoch: so a replica refuses it (READONLY), and
-- no stale server ever judges a position. Follows epoch.lua.
--
-- ARGV  1 epoch, '-' for the empty one, or '' for none  2 offset  3 entries at most  4 their bytes at most, but for the
--       first entry: that is given in any case  5 'after': oldest first, what follows the answer's position; 'upto': newest
--       first, from the position down, if it stands
--       6 seconds that an empty epoch lives which this call may give a channel without a life, so that an attached
--       position has a name; '': it begins none
-- reply { status, generation ('master_replid:...'), last, 'epoch@start epoch@start ...', epoch, offset,
--         1 if there is more in that direction, entries }
--   status  head: (epoch, offset) is the end of the log
--           ok: the position is exact; entries follow it
--           diverged: it saw publications this log does not have; trimmed: what follows it is no longer held;
--           unknown: an epoch of another life, or one that diverged below what is held.
--           In these three, (epoch, offset) is where to go on from; entries follow that.
-- An entry is two items: 'offset-ms' and its data; its epoch is the last of the table whose start is <= its offset.
-- A channel without a life ends at ('', 0). That position stands before the first publication of a life: it is exact as
-- long as that is held, and is answered with the name that the place has by then.
local since, from, count, budget, goes_back = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'upto'
local info = call('INFO', 'replication')
local server = string.match(info, 'master_replid:%x+')
local before_all = since == '-' and from == 0
if not generation then
  if ARGV[6] == '' then
    local status = since == '' and 'head' or before_all and 'ok' or 'unknown'
    return { status, server, 0, '', '', 0, 0, {} }
  end
  begin_epoch(info)
  call('EXPIRE', meta, ARGV[6])
end
local head = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local first = head and tonumber(string.match(head[1], '^%d+')) or last + 1

local epochs = call('HGET', meta, 't')
local known, stop -- is the position of a known epoch, and the last offset that epoch shares with this log
for id, start in string.gmatch(epochs, '(%w+)@(%d+)') do
  if known and not stop then stop = tonumber(start) - 1 end
  if id == since then known = true end
end
stop = stop or last

local status = 'ok'
if since == '' then
  status, from = 'head', last
elseif before_all then
  if first > 1 then status, from = 'trimmed', first - 1 end
elseif not known then
  status, from = 'unknown', first - 1
elseif from > stop then
  -- If that epoch's end is no longer held either, then nothing that it holds is known to stand up to a position.
  if stop >= first - 1 then status, from = 'diverged', stop else status, from = 'unknown', first - 1 end
elseif from + 1 < first then
  status, from = 'trimmed', first - 1
end

local e = since
if status ~= 'ok' or before_all then -- the last epoch that began there or before
  e = nil
  for id, start in string.gmatch(epochs, '(%w+)@(%d+)') do
    if not e or tonumber(start) <= from then e = id end
  end
end

-- Entries pass through here so that their bytes are counted before they are sent. As many are taken at once as surely fit.
local entries, more = {}, 0
if count > 0 and (not goes_back or status == 'ok' or status == 'head') then
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
return { status, server, last, epochs, e, from, more, entries }
