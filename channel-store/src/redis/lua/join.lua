-- join: makes a session a member, and appends onJoin for its user's first session. A session that is a member already is not
-- counted again. A copy of its join, with the same operation, gets the first answer. A newer join gets the present end of the
-- log: the client has left and come back before its leave arrived, and has received everything up to here. That leave is older
-- than the join and does not end it. The script has no flags, as publish.lua: it is refused as a whole if it can't be stored.
--
-- A session may take the place of others of the same user. Their memberships end without onLeave, and then this one begins
-- without onJoin. None of them can join here any more, whether they were members or not.
-- A connector repairs a membership that the store has lost with a join that names the life of the channel in which it began, and
-- the last deletion before. If this is the same life, and its last deletion is another one, nothing was lost: the membership is
-- over. Offsets would not do, because a failover may have lost the place where the membership began.
-- Follows epoch.lua, append.lua, members.lua.
--
-- KEYS  11 tombstone of the incarnation  12 tombstone of the session  13 sessions of the incarnation
-- ARGV  7 session  8 operation  9 incarnation  10 user  11 '1' if the user is a number
--       12 milliseconds that a detached member stays, or '' for a connector's session
--       13 the join's deadline, milliseconds, or ''  14 seconds that tombstones last
--       15 '' or, for a repair, 'life deletion' as the answer to the first join named them; '-' for no deletion
--       16 '' or what everybody may know of the user, a JSON object. It replaces what an earlier session has said
--       17… for each session whose place it takes: the session and its incarnation. Its keys are in the same order:
--       KEYS 14… its tombstone, and the sessions of its incarnation
-- reply { 'joined', epoch, offset, '1' if onJoin was published, offset up to which the log was removed, or 0,
--         life, deletion or '' }
--       | { 'dead' } | { 'stale' } | { 'deleted' } | { 'late', this server's milliseconds }
local session, operation, user, number, stay, info = ARGV[7], tonumber(ARGV[8]), ARGV[10], ARGV[11], ARGV[12], ARGV[16]

if call('EXISTS', KEYS[11]) == 1 then return { 'dead' } end
local now = milliseconds()
if ARGV[13] ~= '' and now > tonumber(ARGV[13]) then return { 'late', now } end
local left = call('GET', KEYS[12])
if left and tonumber(left) > operation then return { 'stale' } end

if ARGV[15] ~= '' then
  local life, deletion = string.match(ARGV[15], '^(%S+) (%S+)$')
  local of = call('HMGET', meta, 'o', 'd')
  if of[2] and of[1] == life and of[2] ~= deletion then return { 'deleted' } end
end

expire_due(10)
-- Keys that this call creates have no expiry yet. If the incarnation has sessions here already, the keys of members exist.
local creates = true
if stay == '' then
  call('SADD', KEYS[13], session)
  creates = call('SADD', incarnations, ARGV[9]) == 1
else
  call('ZADD', detached, format('%d', milliseconds() + stay), session)
end

local ends = '9007199254740991' -- 2^53 - 1: higher than every operation
local carried = 0
for i = 17, #ARGV, 2 do
  local replaced, whose, left_key, of = ARGV[i], ARGV[i + 1], KEYS[i - 3], KEYS[i - 2]
  local record = call('HGET', sessions, replaced)
  local its, him
  if record then
    its, him = string.match(record, '\n%d\n([^\n]*)\n([^\n]*)$')
  end
  if replaced ~= session and (not record or him == user) then
    if record and its == whose then
      call('HDEL', sessions, replaced)
      call('SREM', of, replaced)
      if call('EXISTS', of) == 0 then call('SREM', incarnations, whose) end
      carried = carried + 1
    end
    call('SET', left_key, ends, 'EX', ARGV[14])
  end
end
if carried > 0 then call('HINCRBY', users, user, -carried) end

local function write_record(e, offset, published)
  local record = { ARGV[8], number, e, offset, published, ARGV[9], user }
  call('HSET', sessions, session, table.concat(record, '\n'))
end

local function describe()
  if info ~= '' and call('HSET', infos, user, info) == 1 then creates = true end
end

local function joined(e, offset, published)
  fan_out()
  -- As with publications, the expiries are pushed forward once in a sixteenth of their length.
  if creates or math.abs(math.floor(tonumber(ARGV[5]) / 1000) - (m[4] or 0)) >= ARGV[2] / 16 then refresh() end
  call('EXPIRE', KEYS[13], ARGV[3])
  local of = call('HMGET', meta, 'f', 'o', 'd')
  return { 'joined', e, offset, published, of[1] or 0, of[2] or '', of[3] or '' }
end

local record = call('HGET', sessions, session)
if record then
  local was, e, offset, published = string.match(record, '^(%d+)\n%d\n(%w+)\n(%d+)\n(%d)\n')
  if tonumber(was) < operation then
    if not lifetime then begin_epoch(call('INFO', 'replication')) end
    e, offset, published = epoch, format('%d', last), '0'
    write_record(e, offset, published)
    describe()
  elseif stay ~= '' then
    describe() -- joins of a detached member have no numbers: the last one decides
  end
  return joined(e, tonumber(offset), published)
end

local published = '0'
if call('HINCRBY', users, user, 1) == 1 and announced and carried == 0 then
  published = '1'
  announce('onJoin', user, number, info)
elseif not lifetime then
  begin_epoch(call('INFO', 'replication')) -- the channel is new and joins are not published, or meta was lost alone
end
write_record(epoch, format('%d', last), published)
describe()
return joined(epoch, last, published)
