-- resign: an incarnation writes its own death. Allowed when memory is full. Follows lease.lua.
if state ~= 'dead' then write_death() end
return 'dead'
