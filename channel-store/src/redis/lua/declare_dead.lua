-- declare_dead: writes death into a lease whose beat is still the one that the caller has seen unchanged for long enough. It
-- asks no clock. A lease that is missing means that data was lost, and not that the incarnation is dead: it comes back, so
-- that its owner can take it over, or somebody can declare it dead later. Allowed when memory is full. Follows lease.lua.
--
-- ARGV  2 the beat that the caller has seen  3 the length of a lease that comes back, milliseconds
-- reply 'dead' | 'alive' | 'provisional'
if state == 'dead' then return 'dead' end
if not state then
  write('provisional', ARGV[3])
  return 'provisional'
end
if (beat or '0') ~= ARGV[2] then return 'alive' end
write_death()
return 'dead'
