-- append: one publication into the log and out to the topic. Part of every script that publishes; follows epoch.lua.
--
-- KEYS  5 topic  6 sessions  7 users  8 detached  9 incarnations: members' keys live as long as meta does
-- ARGV  1 log entries kept, at least  2 seconds the log outlives its last publication (15/16 of it at least)
--       3 seconds meta and the members' keys do (>= the log's)  4 PUBLISH or SPUBLISH
--       5 the caller's clock, milliseconds (shown to people and paces the expiry; nothing else depends on it)

-- Pushes all expiries forward. Notes the lives (k): who touches the channel doesn't know them; and more fields.
local function refresh(...)
  call('HSET', meta, 'k', ARGV[2] .. ' ' .. ARGV[3], ...)
  call('EXPIRE', log, ARGV[2])
  call('EXPIRE', meta, ARGV[3])
  call('EXPIRE', KEYS[6], ARGV[3])
  call('EXPIRE', KEYS[7], ARGV[3])
  call('EXPIRE', KEYS[8], ARGV[3])
  call('EXPIRE', KEYS[9], ARGV[3])
end

local checked -- the generation, once a run

-- Answers how many feeds were reached; the publication then stands at (epoch, last).
local function append(data)
  if not checked then
    checked = true
    -- Born, or written by another server lifetime until now. generation is the line of INFO itself, so that the check
    -- is one plain search.
    local info = call('INFO', 'replication')
    if not generation or not string.find(info, generation, 1, true) then begin_epoch(info) end
  end
  last = last + 1
  local offset = format('%d', last)
  -- The id is offset-milliseconds: XRANGE by offset needs no search, the time costs no field.
  local id = offset .. '-' .. ARGV[5]
  call('XADD', log, 'MAXLEN', '~', ARGV[1], id, 'd', data)
  call('HSET', meta, 'n', offset)
  -- Expiry is pushed forward once per sixteenth of its length, not once per publication. Only here is that noted (x):
  -- a log that has expired since gets an expiry again with its first entry.
  local now = math.floor(ARGV[5] / 1000)
  if math.abs(now - (m[4] or 0)) >= ARGV[2] / 16 then
    m[4] = now
    refresh('x', format('%d', now))
  end
  return call(ARGV[4], KEYS[5], epoch .. ' ' .. id .. '\n' .. data)
end
