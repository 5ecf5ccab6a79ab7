-- read: what follows a position, and whether the position still stands. Without a position: the head, to attach there.
-- Not flagged no-writes, although it writes only when the channel has no life (an empty epoch, so that an attached
-- position has a name): so a replica refuses it (READONLY), and no stale server ever judges a position.
-- Follows epoch.lua.
--
-- ARGV  1 epoch or ''  2 offset  3 entries at most  4 seconds meta is kept
-- reply { status, generation ('master_replid:...'), last, 'epoch@start epoch@start ...', epoch, offset, entries }
--   status  head: (epoch, offset) is the end of the log
--           ok: the position is exact; entries follow it
--           diverged: it saw publications this log does not have; trimmed: what follows it is no longer held;
--           unknown: an epoch of another life, or one that diverged below what is held.
--           In these three, (epoch, offset) is where to go on from; entries follow that.
-- An entry is { 'offset-ms', { 'd', data } }; its epoch is the last of the table whose start is <= its offset.
local since, from, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local info = call('INFO', 'replication')
if not generation then
  begin_epoch(info)
  call('EXPIRE', meta, ARGV[4])
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
elseif not known then
  status, from = 'unknown', first - 1
elseif from > stop then
  -- If that epoch's end is no longer held either, then nothing that it holds is known to stand up to a position.
  if stop >= first - 1 then status, from = 'diverged', stop else status, from = 'unknown', first - 1 end
elseif from + 1 < first then
  status, from = 'trimmed', first - 1
end

local e = since
if status ~= 'ok' then -- the last epoch that began there or before
  e = nil
  for id, start in string.gmatch(epochs, '(%w+)@(%d+)') do
    if not e or tonumber(start) <= from then e = id end
  end
end

local entries = {}
if count > 0 and from < last then
  entries = call('XRANGE', log, format('%d', from + 1), '+', 'COUNT', count)
end
return { status, string.match(info, 'master_replid:%x+'), last, epochs, e, from, entries }
