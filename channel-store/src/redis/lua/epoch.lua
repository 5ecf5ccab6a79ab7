-- epoch: the channel as it stands, and the beginning of a new life of its log. Part of every script of a channel, so few
-- functions are made here: each costs every run a tenth of a microsecond, called or not.
--
-- KEYS  1 meta (hash: g generation, e newest epoch, n last offset, t table of epochs, x and w pace the expiries,
--       k "log seconds, meta seconds": how long keys live, for touch; b and y count bytes, see append.lua)
--       2 log (stream)  3, 4 idempotency memory (two hashes, used in turn)
local call, format = redis.call, string.format
local meta, log = KEYS[1], KEYS[2]
local m = call('HMGET', meta, 'g', 'e', 'n', 'x', 'w', 'b')
local generation, epoch, last = m[1], m[2], tonumber(m[3] or 0)

-- Begins an epoch at the next offset. Its id never repeats, for it must tell lives apart that never heard of each other:
-- the server's lifetime and its clock, not a counter.
local function begin_epoch(info)
  local kept = {}
  if generation then
    local head = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    local first = head and tonumber(string.match(head[1], '^%d+')) or last + 1
    local ids, starts = {}, {}
    for id, start in string.gmatch(call('HGET', meta, 't'), '(%w+)@(%d+)') do
      ids[#ids + 1], starts[#starts + 1] = id, tonumber(start)
    end
    for i = math.max(1, #ids - 62), #ids do -- an epoch that ended below what is held judges nothing any more
      if (starts[i + 1] or last + 1) >= first then kept[#kept + 1] = ids[i] .. '@' .. format('%d', starts[i]) end
    end
  else
    call('DEL', log, KEYS[3], KEYS[4]) -- leftovers of another life
  end
  local time = call('TIME')
  generation = string.match(info, 'master_replid:%x+')
  epoch = string.sub(generation, 15, 22) .. format('%x', time[1] * 1000000 + time[2])
  kept[#kept + 1] = epoch .. '@' .. format('%d', last + 1)
  call('HSET', meta, 'g', generation, 'e', epoch, 'n', format('%d', last), 't', table.concat(kept, ' '))
end
