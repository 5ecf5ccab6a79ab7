-- join: makes a session a member; onJoin for its user's first one. A session that is listed is not counted again and
-- gets the first answer. Without flags, as publish: refused as a whole when it could not be stored.
-- Follows epoch.lua, append.lua, members.lua.
--
-- KEYS  10 tombstone of the incarnation  11 tombstone of the session  12 sessions of the incarnation
-- ARGV  7 session  8 operation  9 incarnation  10 user  11 '1' if the user is a number
--       12 milliseconds that a detached member stays, or '' for a connector's session
--       13 the join's deadline, milliseconds, or ''
-- reply { 'joined', epoch, offset, '1' if onJoin was published } | { 'dead' } | { 'late' } | { 'stale' }
local session, operation, user, number, stay = ARGV[7], tonumber(ARGV[8]), ARGV[10], ARGV[11], ARGV[12]

if call('EXISTS', KEYS[10]) == 1 then return { 'dead' } end
if ARGV[13] ~= '' and milliseconds() > tonumber(ARGV[13]) then return { 'late' } end
local left = call('GET', KEYS[11])
if left and tonumber(left) > operation then return { 'stale' } end

expire_due(10)
if stay == '' then
  call('SADD', KEYS[12], session)
  call('SADD', incarnations, ARGV[9])
else
  call('ZADD', detached, format('%d', milliseconds() + stay), session)
end

local record = call('HGET', sessions, session)
if record then
  local was, rest = string.match(record, '^(%d+)(\n.*)$')
  -- It has joined again before its leave arrived: that leave is older than this and must not end it.
  if tonumber(was) < operation then call('HSET', sessions, session, ARGV[8] .. rest) end
  fan_out()
  refresh()
  call('EXPIRE', KEYS[12], ARGV[3])
  local e, offset, published = string.match(rest, '^\n%d\n(%w+)\n(%d+)\n(%d)\n')
  return { 'joined', e, tonumber(offset), published }
end

local published = '0'
if call('HINCRBY', users, user, 1) == 1 and announced then
  published = '1'
  announce('onJoin', user, number)
elseif not generation then
  begin_epoch(call('INFO', 'replication')) -- born without a word, or meta was lost alone
end
call('HSET', sessions, session,
  table.concat({ ARGV[8], number, epoch, format('%d', last), published, ARGV[9], user }, '\n'))
fan_out()
refresh()
call('EXPIRE', KEYS[12], ARGV[3])
return { 'joined', epoch, last, published }
