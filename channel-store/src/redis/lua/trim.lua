-- trim: removes the entries of a log up to a position, if that is a position of the log as it is now. Offsets, epochs and
-- idempotency keys stay. So do the marks of append.lua: they say how many bytes came after an offset, which is as true as
-- before. Allowed when memory is full. Follows epoch.lua, continuity.lua.
--
-- KEYS  5 sessions
-- ARGV  1 epoch, or '-' for the empty one  2 offset
-- reply { 'trimmed', entries that are still held } | { 'mismatch', epoch, offset: the end of the log }
--       | nil: nothing was published in the channel since it was deleted last, and it has no member
if not lifetime then return false end
if last == tonumber(call('HGET', meta, 'z') or 0) and call('EXISTS', KEYS[5]) == 0 then return false end
local upto = tonumber(ARGV[2])
local continuity, _, first = judge(ARGV[1], upto)
if continuity ~= 'contiguous' and continuity ~= 'trimmed' then
  return { 'mismatch', last > 0 and epoch or '', last }
end
if upto >= first then
  if upto == last then
    call('DEL', log)
    call('HDEL', meta, 'x') -- the next publication gives the new stream its expiry
  else
    call('XTRIM', log, 'MINID', format('%d', upto + 1))
  end
  -- What was removed must not be given from a connector's memory either: see join.lua.
  call('HSET', meta, 'f', format('%d', upto))
end
return { 'trimmed', last - math.max(upto, first - 1) }
