-- restore: makes sure that reaping finds what an incarnation has in a place. If the lease is missing, it comes back as
-- provisional. If the place is not in the index, it is added, whether the incarnation lives or is dead. Allowed when memory
-- is full, because what follows from it only removes data. Follows lease.lua.
--
-- ARGV  2 the length of a lease that comes back, milliseconds  3 key  4 nonce, if the key is not in the index
-- reply { 'dead' | 'live' | 'provisional', beat, length }
if not state then write('provisional', ARGV[2]) end
if call('HEXISTS', index, ARGV[3]) == 0 then
  call('HSET', index, ARGV[3], ARGV[4])
  remember()
end
return { state, beat, length }
