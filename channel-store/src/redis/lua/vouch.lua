-- vouch: whoever meets an incarnation in a place sees to it that a funeral would find it there: a lease that is missing
-- comes back, and the place into the index, whether it lives or is dead. Allowed out of memory: what follows only
-- shrinks. Follows lease.lua.
--
-- ARGV  2 the length of a lease that comes back, milliseconds  3 key  4 nonce, if the key is not there
-- reply { 'dead' | 'live' | 'provisional', beat, length }
if not state then write('provisional', ARGV[2]) end
if call('HEXISTS', index, ARGV[3]) == 0 then
  call('HSET', index, ARGV[3], ARGV[4])
  remember()
end
return { state, beat, length }
