-- publish: appends messages to a channel's log and publishes them. A message is not appended if its idempotency key is known
-- or its condition does not hold. Each message is treated as if it came alone; only publishing is done once for all.
-- It has no flags. So Redis itself refuses it on a replica (READONLY), on a primary whose memory is full (OOM) or that has
-- too few replicas (NOREPLICAS), before anything is written or published. Follows epoch.lua, append.lua.
--
-- ARGV  6 seconds that a key is remembered at least; then for each message:
--       data (route, sender, body: opaque here)  condition
--       idempotency key or '' (user NUL key: each user has keys of its own), or '~' for an ephemeral message
--       and after all of them, only if traces are kept of some: 'place traceparent' of each, separated by blanks. The first
--       message has the place 1
-- A condition is '', or a session that must be a member, or an empty line and four lines, each of which may be empty:
--       session that must be a member, user that must be one, offset and epoch at which the log must end. The epoch is '' for
--       a log in which nothing was published yet.
-- reply { epoch, feeds reached, for each message: its offset | { epoch, offset, milliseconds } of the message that had its
--         key first | 'reused' | 'nomember' | { epoch, offset } where the log ends instead
--         | { epoch, offset, milliseconds, feeds reached } of an ephemeral message: where the log ended }
-- An ephemeral message is published, and nothing is written. Its topic message is '~epoch offset milliseconds', newline and
-- data. Because what the log holds must be published before it, and what comes later after it, the run ends there.
local FIRST = 7

-- Idempotency keys are in one hash for each window of time, so a key is remembered for one to two windows of this server's
-- clock.
local keys = {}
local messages, traces = #ARGV - FIRST + 1, nil
if messages % 3 == 1 then
  traces = {}
  for at, traceparent in string.gmatch(ARGV[#ARGV], '(%d+) (%S+)') do
    traces[tonumber(at)] = traceparent
  end
  messages = messages - 1
end
local LAST = FIRST + messages - 1
for i = FIRST + 2, LAST, 3 do
  if #ARGV[i] > 1 then keys[#keys + 1] = ARGV[i] end
end
local memory, window, known, older
if keys[1] then
  window = math.floor(call('TIME')[1] / ARGV[6])
  memory = KEYS[3 + window % 2]
  if lifetime then
    known, older = call('HMGET', memory, unpack(keys)), call('HMGET', KEYS[4 - window % 2], unpack(keys))
  end
end

-- The answer for a message whose key was used at this offset.
local function repeated(was, data)
  -- While the log holds the first publication, that itself tells whether this one is the same.
  local held, offset = call('XRANGE', log, was, was)[1], tonumber(was)
  if held and held[2][2] ~= data then return 'reused' end
  local e = epoch
  for id, start in string.gmatch(call('HGET', meta, 't'), '(%w+)@(%d+)') do
    if tonumber(start) <= offset then e = id end
  end
  return { e, offset, held and string.match(held[1], '%d+$') or ARGV[5] }
end

local answers, members, given, noted, place, reached = { '', 0 }, { [''] = 1 }, {}, {}, 0, 0
for i = FIRST, LAST, 3 do
  local data, condition, key, was = ARGV[i], ARGV[i + 1], ARGV[i + 2], nil
  if #key > 1 then
    place = place + 1
    was = given[key] or known and (known[place] or older[place])
  end
  local answer
  if was then
    answer = repeated(was, data)
  else
    -- This comes after the key: a sender that has left since is still told what became of its first attempt.
    local holds = members[condition]
    if not holds then
      if string.byte(condition) == 10 then
        -- This is not remembered, because the end of the log moves with each message.
        local session, user, offset, e = string.match(condition, '^\n([^\n]*)\n([^\n]*)\n(%d*)\n(.*)$')
        holds = (session == '' or call('HEXISTS', KEYS[6], session) == 1)
          and (user == '' or call('HEXISTS', KEYS[7], user) == 1) and 1 or 0
        local is_end = offset == '' or offset == format('%d', last) and (e == epoch or last == 0 and e == '')
        if holds == 1 and not is_end then answer = { last > 0 and epoch or '', last } end
      else
        holds = call('HEXISTS', KEYS[6], condition)
        members[condition] = holds
      end
    end
    if answer then
      -- The log does not end where it must.
    elseif holds == 1 and key == '~' then
      if run[1] then reached, run = fan_out(), {} end
      local trace = traces and traces[(i - FIRST) / 3 + 1]
      if trace then call(ARGV[4], KEYS[5], format('^%s ~ %s\n', epoch or '', trace)) end
      local head = format('~%s %d %s\n', epoch or '', last, ARGV[5])
      answer = { last > 0 and epoch or '', last, ARGV[5], call(ARGV[4], KEYS[5], head .. data) }
    elseif holds == 1 then
      append(data)
      answer, spoken = last, true
      local trace = traces and traces[(i - FIRST) / 3 + 1]
      if trace then traced = format('%s %d %s', traced or '', last, trace) end
      if key ~= '' then
        given[key] = format('%d', last)
        noted[#noted + 1], noted[#noted + 2] = key, given[key]
      end
    else
      answer = 'nomember'
    end
  end
  answers[#answers + 1] = answer
end

if noted[1] then
  call('HSET', memory, unpack(noted))
  if tonumber(m[5]) ~= window then
    call('EXPIREAT', memory, format('%d', (window + 2) * ARGV[6]))
    call('HSET', meta, 'w', format('%d', window))
  end
end
if run[1] then reached = fan_out() end
answers[2] = reached
answers[1] = epoch or ''
return answers
