-- claim: the owner of a session has the answer to its login, and the client is there. This puts the entry back if it is
-- missing or has another rank. (After a loss of data a late copy of the login may have entered it anew with a higher rank.
-- Then two sessions would each believe to outrank the other.) It marks as superseded what the session outranks: older entries
-- of the same proof, lingering ones that its login has named, and otherwise what the policy says. An entry that is superseded
-- or lingers stays so and marks nobody, because its claim came late. Refused when memory is full, as login.
-- Follows restrictions.lua, user.lua.
--
-- KEYS  3 tombstone of the incarnation  4 tombstone of the session  5 restrictions
-- ARGV  2 session  3 incarnation  4 deadline, milliseconds  5 policy  6 proof, or ''
--       7 when the token was made, seconds; '' without a token  8 name of the token, or ''  9 login rank
--       10 the most superseded entries to keep  11… sessions that the login has named
-- reply { 'done', { incarnations of entries that it outranks and that did not linger }, { incarnations of live entries that outrank it } }
--       | { 'dead' } | { 'late', milliseconds } | { 'closed' } | { 'blocked', milliseconds when it ends, reason } | { 'revoked' }
local session, policy, proof, own = ARGV[2], ARGV[5], ARGV[6], tonumber(ARGV[9])

-- Compares byte by byte, as connectors do. Lua's own order of texts depends on the server's locale.
local function comes_after(one, other)
  for i = 1, math.min(#one, #other) do
    local byte, its = string.byte(one, i), string.byte(other, i)
    if byte ~= its then return byte > its end
  end
  return #one > #other
end

local refused = refusal(KEYS[3], KEYS[4], ARGV[4], KEYS[5], ARGV[7], ARGV[8])
if refused then return refused end

local entry = call('HGET', entries, session)
local _, _, state = parsed(entry or '')
write(session, ARGV[9], ARGV[3], state or '0', proof)
if tonumber(call('GET', last_rank) or 0) < own then call('SET', last_rank, ARGV[9]) end
remember()
-- The claim comes late: the client is gone, or the session has to give way itself.
if state and state ~= '0' then return { 'done', {}, {} } end
local named = {}
for i = 11, #ARGV do named[ARGV[i]] = true end
local superseded, better, marked = {}, {}, {}
for _, entry in ipairs(others(session)) do
  local its = tonumber(entry.rank)
  -- A server that has lost data while its clock was behind may have given one rank twice.
  local newer = own > its or own == its and comes_after(session, entry.session)
  local wins, loses = newer, not newer
  if proof == '' or entry.proof ~= proof then
    wins = policy == 'kick-old' and newer or policy == 'reject' and not newer
    wins = wins or entry.state == '2' and named[entry.session]
    loses = policy ~= 'allow' and not wins
  end
  if wins then
    if entry.state ~= '1' then write(entry.session, entry.rank, entry.incarnation, '1', entry.proof) end
    -- A lingering session has no client that would have to be closed. Its connector ends it after the grace anyway.
    if entry.state ~= '2' then superseded[#superseded + 1] = entry.incarnation end
  elseif loses and entry.state == '0' then
    better[#better + 1] = entry.incarnation
  end
  if wins or entry.state == '1' then marked[#marked + 1] = entry end
end
-- A client that comes back very often leaves a mark each time, which stays until its connector has closed the session. The
-- oldest marks are forgotten. An owner that has not seen its mark yet puts its entry back and is marked again.
if #marked > tonumber(ARGV[10]) then
  table.sort(marked, function(a, b) return tonumber(a.rank) > tonumber(b.rank) end)
  for i = ARGV[10] + 1, #marked do call('HDEL', entries, marked[i].session) end
end
return { 'done', superseded, better }
