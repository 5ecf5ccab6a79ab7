-- append: appends publications to the log and publishes them to the topic as one run. It is part of every script that
-- appends, and follows epoch.lua. A script that appends must call fan_out before it ends.
--
-- KEYS  5 topic  6 sessions  7 users  8 detached members  9 incarnations  10 infos: the keys of members live as long as meta
-- ARGV  1 what the log keeps: 'entries milliseconds bytes', and then the seconds that an empty channel lives
--       2 seconds that the log outlives its last publication (15/16 of it at least)
--       3 seconds that meta and the keys of members do (not less than the log)  4 PUBLISH or SPUBLISH
--       5 the caller's clock, milliseconds (it is shown to people, paces the expiries and says how old a publication is)
--
-- Two fields of meta count the log's bytes. A publication counts as its data and 40 bytes more.
--   b  'bytes, bytes and time of the next mark, longest data, offset of the last publication that is no join or leave'.
--      The bytes are those of all publications in this life of the channel. The field is written with each run.
--   y  marks, oldest first: 'bytes milliseconds offset' each. A mark says how many bytes there were up to an offset, and
--      when. The first mark is the last one at or below what was trimmed. A mark is made when a sixteenth of the bytes
--      or of the time has come in since the last one. Only then the log is trimmed, so that most runs don't pay for it.

local run = {} -- what this call has appended, all in one epoch
local id -- the id of the last entry
local spoken -- publish.lua sets it: this call has appended something that is no join or leave
local traced -- publish.lua sets it: which publications of the run belong to traces that are kept, ' offset traceparent' each

-- Pushes all expiries forward. Stores the lives of the keys in k, because a connector that touches the channel does not know
-- them, and stores further fields. A channel without members whose log holds nothing but joins and leaves is of little use
-- to anybody. So it lives for a short time only, but not shorter than its idempotency keys are remembered.
local function refresh(...)
  local log_life, life = ARGV[2], ARGV[3]
  call('HSET', meta, 'k', log_life .. ' ' .. life, ...)
  if not spoken and call('EXISTS', KEYS[6]) == 0 then
    local said = tonumber(string.match(m[6] or '0', '%d+$'))
    local head = said > 0 and call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    local holds_it = head and tonumber(string.match(head[1], '^%d+')) <= said
    if said == 0 or not holds_it then
      local short = tonumber(string.match(ARGV[1], '%d+$'))
      short = math.max(short, call('TTL', KEYS[3]), call('TTL', KEYS[4])) -- negative where there are no keys
      log_life, life = math.min(log_life, short), math.min(life, short)
      call('HDEL', meta, 'x') -- the next publication pushes the expiries forward again
    end
  end
  call('EXPIRE', log, log_life)
  call('EXPIRE', meta, life)
  call('EXPIRE', KEYS[6], life)
  call('EXPIRE', KEYS[7], life)
  call('EXPIRE', KEYS[8], life)
  call('EXPIRE', KEYS[9], life)
  call('EXPIRE', KEYS[10], life)
end

local function append(data)
  if not run[1] then
    -- If the channel is new, or another server lifetime has written it until now, an epoch begins. The stored lifetime is the
    -- line of INFO itself, so the check is one plain search.
    local info = call('INFO', 'replication')
    if not lifetime or not string.find(info, lifetime, 1, true) then begin_epoch(info) end
  end
  last = last + 1
  run[#run + 1] = data
  -- The id is offset-milliseconds. So XRANGE by offset needs no search, and the time needs no field.
  id = format('%d-%s', last, ARGV[5])
  call('XADD', log, id, 'd', data)
end

-- Publishes the run as one message: its first id, the lengths of all but its last publication, and the publications.
-- If traces are kept of some of them, a message of its own goes before it: '^epoch', the marks and a newline. It is not in the head
-- of the run, because readers of the version before this one take everything there for a length. They pass over such a message.
-- Returns how many feeds were reached.
local function fan_out()
  if not run[1] then return 0 end
  local total, mark_bytes, mark_time, longest, said =
    string.match(m[6] or '0 0 0 0 0', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  local before, clock = tonumber(total), tonumber(ARGV[5])
  total, longest = before, tonumber(longest)
  for i = 1, #run do
    local size = #run[i]
    total = total + size + 40
    if size > longest then longest = size end
  end
  if spoken then said = last end
  if total >= tonumber(mark_bytes) or clock >= tonumber(mark_time) then
    local entries, keep, bytes = string.match(ARGV[1], '^(%d+) (%d+) (%d+)')
    keep, bytes = tonumber(keep), tonumber(bytes)
    local step, marks = math.floor(bytes / 16), {}
    for was, at, offset in string.gmatch(call('HGET', meta, 'y') or '', '(%d+) (%d+) (%d+)') do
      marks[#marks + 1] = { tonumber(was), tonumber(at), tonumber(offset) }
    end
    if not marks[1] then marks[1] = { before, clock, last - #run } end
    marks[#marks + 1] = { total, clock, last }
    -- Entries that are both too old and too many are trimmed,
    local floor = 0
    for _, mark in ipairs(marks) do
      if clock - mark[2] >= keep then floor = mark[3] end
    end
    floor = math.min(floor, last - entries)
    -- and those beyond the bytes. One step more may come in until the next mark.
    if total - marks[1][1] > bytes - step then
      local by_bytes = last - 1
      for i = #marks - 1, 1, -1 do
        if total - marks[i][1] > bytes - step then break end
        by_bytes = marks[i][3]
      end
      floor = math.max(floor, by_bytes)
    end
    if floor > marks[1][3] then call('XTRIM', log, 'MINID', '~', format('%d', floor + 1)) end
    -- Old marks that are close together are thinned out, because only the bytes need them.
    local kept = {}
    for i, mark in ipairs(marks) do
      local following = marks[i + 1]
      if following and following[3] <= floor then
        -- It goes, because the next one is at or below what was trimmed, too.
      elseif kept[1] and following and clock - mark[2] >= keep and following[1] - kept[#kept][1] < step then
        -- It goes, because its neighbours are close enough to each other.
      else
        kept[#kept + 1] = mark
      end
    end
    while #kept > 64 do table.remove(kept, 2) end
    for i, mark in ipairs(kept) do kept[i] = format('%d %d %d', mark[1], mark[2], mark[3]) end
    call('HSET', meta, 'y', table.concat(kept, ' '))
    mark_bytes, mark_time = total + step, clock + math.floor(keep / 16)
  end
  m[6] = format('%d %d %d %d %d', total, mark_bytes, mark_time, longest, said)
  call('HSET', meta, 'n', format('%d', last), 'b', m[6])
  -- The expiries are pushed forward once in a sixteenth of their length, and not with each publication. Only here the time of
  -- that is stored (x), so a log that has expired meanwhile gets an expiry again with its first entry.
  local now = math.floor(clock / 1000)
  if math.abs(now - (m[4] or 0)) >= ARGV[2] / 16 then
    m[4] = now
    refresh('x', format('%d', now))
  end
  if traced then
    call(ARGV[4], KEYS[5], '^' .. epoch .. traced .. '\n')
    traced = nil
  end
  -- Most runs hold one publication. Without a table this costs half a microsecond less.
  if not run[2] then return call(ARGV[4], KEYS[5], epoch .. ' ' .. id .. '\n' .. run[1]) end
  local head = { epoch, format('%d-%s', last - #run + 1, ARGV[5]) }
  for i = 1, #run - 1 do head[i + 2] = #run[i] end
  return call(ARGV[4], KEYS[5], table.concat(head, ' ') .. '\n' .. table.concat(run))
end
