-- claim: an owner that has its login's answer, and a client that is there, says so. Puts the entry back if it is missing,
-- or has another generation: after a loss of data a late copy of the login may have entered it anew, with a higher one,
-- and two sessions would each believe to be the better. Marks as superseded what it outranks: older entries of the same
-- proof, lingering ones that its login named, and else what the policy says. An entry that is superseded or lingers stays
-- so, and marks nobody: its claim came late. Without flags, as login. Follows user.lua.
--
-- KEYS  3 tombstone of the incarnation  4 tombstone of the session
-- ARGV  2 session  3 incarnation  4 deadline, milliseconds  5 policy  6 proof, or ''  7 generation
--       8 superseded entries to keep at most  9… sessions that the login named
-- reply { 'done', { incarnations it outranks }, { incarnations of better ones } } | { 'dead' } | { 'late', milliseconds } | { 'closed' }
local session, policy, proof, own = ARGV[2], ARGV[5], ARGV[6], tonumber(ARGV[7])

-- Byte by byte, as connectors compare. Lua's own order of texts depends on the server's locale.
local function comes_after(one, other)
  for i = 1, math.min(#one, #other) do
    local byte, its = string.byte(one, i), string.byte(other, i)
    if byte ~= its then return byte > its end
  end
  return #one > #other
end

local refused = refusal(KEYS[3], KEYS[4], ARGV[4])
if refused then return refused end

local entry = call('HGET', entries, session)
local _, _, state = parsed(entry or '')
write(session, ARGV[7], ARGV[3], state or '0', proof)
if tonumber(call('GET', given) or 0) < own then call('SET', given, ARGV[7]) end
remember()
-- It comes late: its client is gone, or it gives way itself.
if state and state ~= '0' then return { 'done', {}, {} } end
local named = {}
for i = 9, #ARGV do named[ARGV[i]] = true end
local superseded, better, marked = {}, {}, {}
for _, entry in ipairs(others(session)) do
  local its = tonumber(entry.generation)
  -- A server that has lost data while its clock was behind may have given one generation twice.
  local newer = own > its or own == its and comes_after(session, entry.session)
  local wins, loses = newer, not newer
  if proof == '' or entry.proof ~= proof then
    wins = policy == 'kick-old' and newer or policy == 'reject' and not newer
    wins = wins or entry.state == '2' and named[entry.session]
    loses = policy ~= 'allow' and not wins
  end
  if wins then
    if entry.state ~= '1' then write(entry.session, entry.generation, entry.incarnation, '1', entry.proof) end
    superseded[#superseded + 1] = entry.incarnation
  elseif loses and entry.state == '0' then
    better[#better + 1] = entry.incarnation
  end
  if wins or entry.state == '1' then marked[#marked + 1] = entry end
end
-- Who comes back very often leaves a mark each time, until its connector has seen to it. The oldest ones are forgotten: an
-- owner that has not seen its mark yet puts its entry back, and is marked again.
if #marked > tonumber(ARGV[8]) then
  table.sort(marked, function(a, b) return tonumber(a.generation) > tonumber(b.generation) end)
  for i = ARGV[8] + 1, #marked do call('HDEL', entries, marked[i].session) end
end
return { 'done', superseded, better }
