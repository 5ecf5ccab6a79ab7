-- append: publications into the log, and out to the topic as one run. Part of every script that publishes; follows
-- epoch.lua. Who appends must fan out before it ends.
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

local run = {} -- what was appended; all in one epoch
local id -- of the last

-- The publication then stands at (epoch, last).
local function append(data)
  if not run[1] then
    -- Born, or written by another server lifetime until now. generation is the line of INFO itself, so that the check
    -- is one plain search.
    local info = call('INFO', 'replication')
    if not generation or not string.find(info, generation, 1, true) then begin_epoch(info) end
  end
  last = last + 1
  run[#run + 1] = data
  -- The id is offset-milliseconds: XRANGE by offset needs no search, the time costs no field.
  id = format('%d-%s', last, ARGV[5])
  call('XADD', log, 'MAXLEN', '~', ARGV[1], id, 'd', data)
end

-- One push for all of the run: its first id, the lengths of all but its last, and the publications themselves.
-- Answers how many feeds were reached.
local function fan_out()
  if not run[1] then return 0 end
  call('HSET', meta, 'n', format('%d', last))
  -- Expiry is pushed forward once per sixteenth of its length, not once per publication. Only here is that noted (x):
  -- a log that has expired since gets an expiry again with its first entry.
  local now = math.floor(ARGV[5] / 1000)
  if math.abs(now - (m[4] or 0)) >= ARGV[2] / 16 then
    m[4] = now
    refresh('x', format('%d', now))
  end
  -- The same without a table, half a microsecond cheaper: most runs are of one.
  if not run[2] then return call(ARGV[4], KEYS[5], epoch .. ' ' .. id .. '\n' .. run[1]) end
  local head = { epoch, format('%d-%s', last - #run + 1, ARGV[5]) }
  for i = 1, #run - 1 do head[i + 2] = #run[i] end
  return call(ARGV[4], KEYS[5], table.concat(head, ' ') .. '\n' .. table.concat(run))
end
