-- epoch: reads what a channel is at present, and begins a new epoch of its log. It is part of every script that appends to a
-- log or reads it. It makes few functions, because each costs every call a tenth of a microsecond, also if it is not called.
--
-- KEYS  1 meta (hash: s server lifetime, e newest epoch, n last offset, t table of epochs, x and w pace the expiries,
--       k "log seconds, meta seconds": how long keys live, for touch.lua; b and y count bytes, see append.lua;
--       f offset up to which trim.lua or delete.lua has removed the log; o first epoch, which names this life of the channel;
--       z, d offset and epoch of the last deletion, see delete.lua)
--       2 log (stream)  3, 4 idempotency keys (two hashes for two windows of time, used in turn)
local call, format = redis.call, string.format
local meta, log = KEYS[1], KEYS[2]
local m = call('HMGET', meta, 's', 'e', 'n', 'x', 'w', 'b')
local lifetime, epoch, last = m[1], m[2], tonumber(m[3] or 0)

-- Begins an epoch at the next offset. Its id never repeats. It is made of the server lifetime and the server's clock and not
-- of a counter, because servers that don't know of each other must not give the same id.
local function begin_epoch(info)
  local kept, is_new = {}, not lifetime
  if lifetime then
    local head = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    local first = head and tonumber(string.match(head[1], '^%d+')) or last + 1
    local ids, starts = {}, {}
    for id, start in string.gmatch(call('HGET', meta, 't'), '(%w+)@(%d+)') do
      ids[#ids + 1], starts[#starts + 1] = id, tonumber(start)
    end
    for i = math.max(1, #ids - 62), #ids do -- an epoch that ended before all that the log holds is of no use any more
      if (starts[i + 1] or last + 1) >= first then kept[#kept + 1] = ids[i] .. '@' .. format('%d', starts[i]) end
    end
  else
    call('DEL', log, KEYS[3], KEYS[4]) -- what is left of an earlier life of the channel
  end
  local time = call('TIME')
  lifetime = string.match(info, 'master_replid:%x+')
  epoch = string.sub(lifetime, 15, 22) .. format('%x', time[1] * 1000000 + time[2])
  kept[#kept + 1] = epoch .. '@' .. format('%d', last + 1)
  call('HSET', meta, 's', lifetime, 'e', epoch, 'n', format('%d', last), 't', table.concat(kept, ' '))
  if is_new then call('HSET', meta, 'o', epoch) end
end
