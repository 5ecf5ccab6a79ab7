-- claim: an owner that has its login's answer, and a client that is there, says so. Puts the entry back if it is missing,
-- or has another generation: after a loss of data a late copy of the login may have entered it anew, with a higher one,
-- and two sessions would each believe to be the better. An entry that is superseded stays so. Marks as superseded what it
-- outranks. Without flags, as login. Follows user.lua.
--
-- KEYS  3 tombstone of the incarnation  4 tombstone of the session
-- ARGV  2 session  3 incarnation  4 deadline, milliseconds  5 policy  6 generation
-- reply { 'done', { incarnations it outranks }, { incarnations of better ones } } | { 'dead' } | { 'late', milliseconds } | { 'closed' }
local session, policy, own = ARGV[2], ARGV[5], tonumber(ARGV[6])
local refused = refusal(KEYS[3], KEYS[4], ARGV[4])
if refused then return refused end

local entry = call('HGET', entries, session)
local _, _, superseded_already = parsed(entry or '')
write(session, ARGV[6], ARGV[3], superseded_already or '0')
if tonumber(call('GET', given) or 0) < own then call('SET', given, ARGV[6]) end
local superseded, better = {}, {}
for _, entry in ipairs(others(session)) do
  local its = tonumber(entry.generation)
  local newer, older = own > its, own < its
  if policy == 'kick-old' and newer or policy == 'reject' and older then
    if entry.superseded == '0' then write(entry.session, entry.generation, entry.incarnation, '1') end
    superseded[#superseded + 1] = entry.incarnation
  elseif policy ~= 'allow' and entry.superseded == '0' and (newer or older) then
    better[#better + 1] = entry.incarnation
  end
end
remember()
return { 'done', superseded, better }
